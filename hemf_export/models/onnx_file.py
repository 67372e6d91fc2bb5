"""ONNX files: what ours say of themselves, and what is refused before a native parser sees a file.

Parsed with protobuf alone. Our files are self-contained: external data in one of ours is refused without being looked
for. Others' weights may lie in files beside the model, as torch's exporter writes them. A path in a model file is an
attacker's chance to have another file read, so a name must lead to an ordinary file in the model's own folder or below,
through no link, and every range must lie inside that file; only initializers may be outside.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.models import graph_output
from hemf_export.models.description import Description
from hemf_export.models.model_file import Kind, ModelFile

if TYPE_CHECKING:
    from hemf_export.models.predictor import Predictor
    from hemf_export.models.runners import OnnxRunner

_KEY = "hemf"  # of our description in the file's metadata
_SHOWN = 5
_LARGEST = 2**31 - 1  # bytes of a message that protobuf takes: a model and its weights together


@dataclass(frozen=True)
class OnnxFile(ModelFile):
    """An ONNX file, ours or another's.

    Args:
        path: of the file.
        given_classes: class names, which must be the file's own.
        reading: see `ModelFile`.
        assumed: what a file that isn't ours doesn't say of itself; see `assuming`.
    """

    assumed: Description | None = None

    kind: ClassVar[Kind] = "onnx"

    def assuming(self, description: Description) -> OnnxFile:
        """Give the file a description for what it doesn't say itself."""
        return self._with(assumed=description)

    @property
    def is_ours(self) -> bool:
        """Whether the file has our metadata, whole or not; False for what is damaged."""
        try:
            return _KEY in self._metadata
        except BadInputError:
            return False

    @cached_property
    def description(self) -> Description:
        """The description in the file's metadata, or what is assumed of it; nothing else of the file is checked."""
        if self.assumed is not None and not self.is_ours:
            return self.assumed
        description = _description(self.path, self._metadata)
        self._require_agreement(description)
        return description

    @property
    def stored_description(self) -> Description | None:
        """The description in the file's metadata; None where it isn't one of ours."""
        try:
            return self.description if self.is_ours else None
        except BadInputError:
            return None

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the file; where it keeps weights in other files, of it and them."""
        return self.sha256 if self.is_ours else _content_sha256(self, self._parse())

    @cached_property
    def ends(self) -> tuple[str, str]:
        """Names of the input and the output of a file that has one of each."""
        graph = self._parse().graph
        return inputs(graph)[0].name, graph.output[0].name

    def read(self) -> onnx.ModelProto:
        """Parse and check the file, with its weights in it; it is parsed anew each time, and not kept.

        Raises:
            BadInputError: not a whole ONNX file, tensors in other files that are not contained, a manifest of another
                file; for one of ours, not the input and output that it describes.
        """
        _ = self.manifest  # one beside it has to describe it
        model = self._parse()
        if not self.is_ours:
            _load_external(self.path, model)
        _refuse_external_data(self.path, model)
        if self.is_ours:
            _check_signature(self.path, model, self.description)
        return model

    def read_ours(self) -> tuple[onnx.ModelProto, Description]:
        """Parse and check one of our files.

        Raises:
            BadInputError: see `read`; a file that isn't ours, of which nothing is assumed.
        """
        return self.read(), self.description

    def runner(self, *, threads: int | None = None, emulated: bool = False) -> OnnxRunner:
        """The file in ONNX Runtime on the CPU.

        Args:
            threads: within an operator.
            emulated: round float16 as a GPU does, which a CPU by itself doesn't.

        Raises:
            BadInputError: ONNX Runtime doesn't take it.
        """
        from hemf_export.calibration import emulation

        return self._runner(emulation.of_file(self.read()) if emulated else self.path, threads)

    def predictor(self, *, for_proof: bool = False) -> Predictor:
        """The file in ONNX Runtime on the CPU, ready to classify; see `ModelFile.predictor`."""
        from hemf_export.calibration import emulation
        from hemf_export.models.predictor import Predictor

        model = self.read()  # refuses what the native parser is not to see
        emulated = for_proof and self.precision in ("fp16", "int8")
        runner = self._runner(emulation.of_file(model) if emulated else self.path)
        return Predictor(self.description, runner, emulated=emulated, fixed_batch=self.description.batch)

    def _runner(self, source: Path | ir.Model, threads: int | None = None) -> OnnxRunner:
        from hemf_export.models.runners import OnnxRunner

        name = f"ONNX Runtime, {self.name}" + ", float16 emulated" * (source is not self.path)
        return OnnxRunner(source, name, threads=threads, output=self.output)

    def _parse(self) -> onnx.ModelProto:
        model = _parse(self.path)
        vars(self).setdefault("_metadata", _metadata(model))
        return model

    @cached_property
    def _metadata(self) -> dict[str, str]:
        return _metadata(_parse(self.path))


def describe(model: ir.Model, description: Description) -> None:
    """Put the description, and class names for readers that know nothing of us, into a model's metadata."""
    model.metadata_props.clear()
    model.metadata_props[_KEY] = json.dumps(description.to_dict(), ensure_ascii=False)
    model.metadata_props["classes"] = json.dumps(list(description.classes), ensure_ascii=False)
    model.producer_name = "hemf-export"
    model.producer_version = description.versions.get("hemf-export")


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a file uses; 0 where it doesn't say."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph; old files list their weights among them, which are none."""
    weights = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def signature(value: onnx.ValueInfoProto) -> str:
    """Type and shape of an input or output, in words."""
    if not value.type.HasField("tensor_type"):
        return f"{value.type.WhichOneof('value') or 'untyped'} (no tensor)"
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    name = "float32" if tensor.elem_type == onnx.TensorProto.FLOAT else names.get(tensor.elem_type, "unknown type")
    if not tensor.HasField("shape"):
        return f"{name} (any shape)"
    return f"{name} ({', '.join('any' if size is None else str(size) for size in sizes(value) or ())})"


def sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The shape of an input or output, None for a size that is open, however the file spells that; None without one."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def state_output(model: onnx.ModelProto, found: tuple[int | None, ...], batch: int | None) -> None:
    """Write the shape of the only output into a parsed file, as it was found: files don't always state it, or wrongly.

    Args:
        model: changed in place.
        found: sizes, None for the batch.
        batch: the fixed one, or None for any.
    """
    shape = model.graph.output[0].type.tensor_type.shape
    named = [dim.dim_param for dim in shape.dim]
    del shape.dim[:]
    for index, size in enumerate(found):
        known = batch if size is None else size
        if known is None:
            shape.dim.add(dim_param=(named[index] if index < len(named) else "") or "N")
        else:
            shape.dim.add(dim_value=known)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    damaged = f"{path} is not a whole ONNX file: "
    if not data:
        raise BadInputError(damaged + "it is empty.", "Export it again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise BadInputError(damaged + "it can't be parsed.", "It may be cut short: export it again.") from error
    if not model.graph.node or not model.opset_import:
        raise BadInputError(damaged + "it has no graph.", "Export it again.")
    return model


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def _description(path: Path, metadata: dict[str, str]) -> Description:
    if _KEY not in metadata:
        raise BadInputError(
            f"{path} has no hemf-export metadata.",
            "Of a checkpoint, `export_onnx(CKPT)` makes such a file; of another's float32 ONNX file, "
            "`quantize(FILE, precision='fp16', images=DATA)`.",
        )
    try:
        return Description.from_dict(json.loads(metadata[_KEY]))
    except BadInputError as error:
        raise BadInputError(f"{path}: its hemf-export metadata: {error.message}", error.hint) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadInputError(f"{path}: its hemf-export metadata can't be read: {error}.", "Export it again.") from error


def _check_signature(path: Path, model: onnx.ModelProto, description: Description) -> None:
    """One input and one output, of the shapes and types that the description says."""
    taken, batch = description.input, description.batch or "any"
    sides = f"{taken.height}, {taken.width}"
    image = f"{sides}, 3" if taken.raw else f"3, {sides}"
    width = description.output.width(len(description.classes))
    expected = f"{description.input_type} ({batch}, {image})", f"float32 ({batch}, {width})"
    found = [signature(value) for value in inputs(model.graph)], [signature(value) for value in model.graph.output]
    fits = found[0] == [expected[0]], _is_row(model.graph.output, width, description.batch)
    for what, wanted, got, fit in zip(("input", "output"), expected, found, fits, strict=True):
        if not fit:
            raise BadInputError(
                f"{path}: found the {what}s {'; '.join(got) or 'none'}; expected {wanted}.",
                "Export it again with `export_onnx()`.",
            )


def _is_row(outputs: Sequence[onnx.ValueInfoProto], width: int, batch: int | None) -> bool:
    """Whether there is one output, and a row of `width` numbers for each image; axes of size 1 may be anywhere."""
    if len(outputs) != 1 or outputs[0].type.tensor_type.elem_type not in graph_output.FLOATS:
        return False
    found = sizes(outputs[0])
    return found is not None and graph_output.is_row(found, width, batch)


def _refuse_external_data(path: Path, model: onnx.ModelProto) -> None:
    outside = [tensor.name for tensor in _tensors(model) if tensor.external_data or tensor.data_location]
    if outside:
        raise BadInputError(
            f"{path} keeps {len(outside)} tensors in other files ({', '.join(outside[:_SHOWN])}): refused.",
            "A self-contained file is needed, as `export_onnx()` writes it.",
        )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, attributes, subgraphs, functions and their defaults, training graphs."""
    nodes = [node for function in model.functions for node in function.node]
    nodes.extend(onnx.NodeProto(attribute=function.attribute_proto) for function in model.functions)
    graphs = [model.graph]
    graphs.extend(graph for info in model.training_info for graph in (info.initialization, info.algorithm))
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        while nodes:
            for attribute in nodes.pop().attribute:
                yield from (tensor for tensor in (attribute.t, *attribute.tensors) if tensor.ByteSize())
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (tensor for tensor in (sparse.values, sparse.indices) if tensor.ByteSize())
                graphs.extend(graph for graph in (attribute.g, *attribute.graphs) if graph.ByteSize())


def _external_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """The files that the main graph's initializers are in, in order of their names."""
    return tuple(sorted({_entries(tensor).get("location", "") for tensor in _outside(model.graph.initializer)}))


def _load_external(path: Path, model: onnx.ModelProto) -> None:
    """Read the weights of `model`, a parsed file at `path`, into it; it is self-contained then.

    Raises:
        BadInputError: a name that leaves the folder or a link; a missing file; a range outside a file or of another
            length than its tensor; more than 2 GB.
    """
    tensors = _outside(model.graph.initializer)
    sizes = [_length(path, tensor) for tensor in tensors]
    if sum(sizes) + model.ByteSize() > _LARGEST:
        raise BadInputError(f"{path} and its weights are larger than 2 GB, which one ONNX file can't hold.")
    for name in _external_names(model):
        file = _contained(path, name)
        with _opened(path, file) as handle:
            available = os.fstat(handle.fileno()).st_size
            for tensor, length in zip(tensors, sizes, strict=True):
                entries = _entries(tensor)
                if entries["location"] != name:
                    continue
                offset = _number(path, tensor, entries.get("offset", "0"))
                if offset + length > available:
                    ends = f"{offset} to {offset + length}"
                    raise _refused(path, f"{tensor.name} is at {ends} of {name}, which has {available} bytes")
                handle.seek(offset)
                tensor.raw_data = handle.read(length)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")


def _content_sha256(file: OnnxFile, model: onnx.ModelProto) -> str:
    others = _external_names(model)
    if not others:
        return file.sha256
    digest = hashlib.sha256(file.sha256.encode())
    for name in others:
        digest.update(artifacts.sha256(_contained(file.path, name)).encode())
    return digest.hexdigest()


def _outside(tensors: Sequence[onnx.TensorProto]) -> list[onnx.TensorProto]:
    return [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _length(path: Path, tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor, by its shape and type, which its entry must agree with."""
    if min(tensor.dims, default=0) < 0:
        raise _refused(path, f"{tensor.name} has a negative size")
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise _refused(path, f"{tensor.name} has an unknown type") from error
    length = math.prod(tensor.dims) * item
    told = _entries(tensor).get("length")
    if told is not None and _number(path, tensor, told) != length:
        raise _refused(path, f"{tensor.name} needs {length} bytes, and its entry says {told}")
    return length


def _number(path: Path, tensor: onnx.TensorProto, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _refused(path, f"{tensor.name} has the offset or length {text!r}")
    return int(text)


def _contained(path: Path, name: str) -> Path:
    """The file that `name` leads to, which is in the model's folder or below."""
    parts = PurePosixPath(name).parts
    strange = "\\" in name or "\0" in name or PureWindowsPath(name).drive or any(part == ".." for part in parts)
    if not parts or PurePosixPath(name).is_absolute() or strange:
        raise _refused(path, f"{name!r} is no path below the model's folder")
    file = path.parent
    for part in parts:
        file = file / part
        if file.is_symlink():
            raise _refused(path, f"{name} leads through a link", "Put the file itself beside the model.")
    if not file.exists():
        raise BadInputError(f"{path} keeps weights in {name}, which isn't there.", "Put it beside the model again.")
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, f"{name} is no ordinary file")
    if found.st_nlink > 1:
        raise _refused(path, f"{name} is a hard link", "Put a copy of the file beside the model.")
    return file


def _opened(path: Path, file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise BadInputError(f"{path} keeps weights in {file}, which can't be read: {error.strerror}.") from error


def _refused(path: Path, why: str, hint: str = "Export the model again.") -> BadInputError:
    return BadInputError(f"{path} keeps weights in other files: refused, {why}.", hint)
