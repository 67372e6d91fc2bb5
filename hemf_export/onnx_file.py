"""ONNX files: what ours say about themselves, and what is refused before a native parser sees a file.

Parsed with protobuf alone. Our files are self-contained: in one of ours, external data is refused without being looked
for; others' is read if it is contained, see `hemf_export.external_data`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from hemf import artifacts
from hemf.errors import BadInputError
from hemf_export import external_data, graph_output, model_kind
from hemf_export.description import Description

_KEY = "hemf"  # of our description in the file's metadata
_SHOWN = 5


def describe(model: ir.Model, description: Description) -> None:
    """Put the description, and class names for readers that know nothing of us, into the model's metadata."""
    model.metadata_props.clear()
    model.metadata_props[_KEY] = json.dumps(description.to_dict(), ensure_ascii=False)
    model.metadata_props["classes"] = json.dumps(list(description.classes), ensure_ascii=False)
    model.producer_name = "hemf-export"
    model.producer_version = description.versions.get("hemf-export")


def read(path: Path) -> tuple[onnx.ModelProto, Description]:
    """Parse and check one of our ONNX files; a manifest beside it must agree with it.

    Raises:
        BadInputError: not an ONNX file, not one of ours, or not the inputs and outputs that it describes.
    """
    model = read_any(path)
    description = _description(path, model)
    _check_signature(path, model, description)
    return model, description


def read_any(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file, ours or not, with its weights in it; a manifest beside it must agree with it.

    Raises:
        BadInputError: not an ONNX file, or one with tensors in other files that are not contained.
    """
    if not path.is_file():
        raise BadInputError(f"No ONNX file at {path}.", "Make one: hemf-export onnx CKPT.")
    model_kind.require(path, "onnx", "Make one of a checkpoint: hemf-export onnx CKPT.")
    artifacts.read_manifest(path)
    model = _parse(path)
    if not _has_our_metadata(model):
        external_data.load(path, model)
    _refuse_external_data(path, model)
    return model


def sha256(path: Path) -> str:
    """Hash of an ONNX file, with that of the weights that others than ours keep in files beside it.

    Raises:
        BadInputError: not an ONNX file, or its weights are not beside it.
    """
    return external_data.sha256(path, _parse(path))


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a file uses; 0 where it doesn't say."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def ends(path: Path) -> tuple[str, str]:
    """Names of the input and the output of an ONNX file that has one of each."""
    graph = _parse(path).graph
    weights = {initializer.name for initializer in graph.initializer}
    return next(value.name for value in graph.input if value.name not in weights), graph.output[0].name


def is_ours(path: Path) -> bool:
    """Whether a file has our metadata, whole or not; False for what is no ONNX file."""
    try:
        return _has_our_metadata(_parse(path))
    except BadInputError:
        return False


def _has_our_metadata(model: onnx.ModelProto) -> bool:
    return any(prop.key == _KEY for prop in model.metadata_props)


def glance(path: Path) -> Description | None:
    """The description in a file, nothing else of it checked; None where it isn't one of ours."""
    try:
        return _description(path, _parse(path))
    except BadInputError:
        return None


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


def _description(path: Path, model: onnx.ModelProto) -> Description:
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    if _KEY not in metadata:
        raise BadInputError(
            f"{path} has no hemf-export metadata.",
            "Of a checkpoint, hemf-export onnx CKPT makes such a file; of another's float32 ONNX file, "
            "hemf-export calibrate FILE --precision fp16 --images DATA.",
        )
    try:
        return Description.from_dict(json.loads(metadata[_KEY]))
    except BadInputError as error:
        raise BadInputError(f"{path}: its hemf-export metadata: {error.message}", error.hint) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadInputError(f"{path}: its hemf-export metadata can't be read: {error}.", "Export it again.") from error


def _check_signature(path: Path, model: onnx.ModelProto, description: Description) -> None:
    """One input and one output, of the shapes and types that the description says."""
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    taken, batch = description.input, description.batch or "any"
    sides = f"{taken.height}, {taken.width}"
    image = f"{sides}, 3" if taken.raw else f"3, {sides}"
    width = description.output.width(len(description.classes))
    expected = f"{description.input_type} ({batch}, {image})", f"float32 ({batch}, {width})"
    found = [signature(value) for value in inputs], [signature(value) for value in model.graph.output]
    fits = found[0] == [expected[0]], _is_row(model.graph.output, width, description.batch)
    for what, wanted, got, fit in zip(("input", "output"), expected, found, fits, strict=True):
        if not fit:
            raise BadInputError(
                f"{path}: found the {what}s {'; '.join(got) or 'none'}; expected {wanted}.",
                "Export it again with hemf-export onnx.",
            )


def _is_row(outputs: Sequence[onnx.ValueInfoProto], width: int, batch: int | None) -> bool:
    """Whether there is one output, and a row of `width` numbers for each image; axes of size 1 may be anywhere."""
    if len(outputs) != 1 or outputs[0].type.tensor_type.elem_type not in graph_output.FLOATS:
        return False
    found = sizes(outputs[0])
    return found is not None and graph_output.is_row(found, width, batch)


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


def _refuse_external_data(path: Path, model: onnx.ModelProto) -> None:
    outside = [tensor.name for tensor in _tensors(model) if tensor.external_data or tensor.data_location]
    if outside:
        raise BadInputError(
            f"{path} keeps {len(outside)} tensors in other files ({', '.join(outside[:_SHOWN])}): refused.",
            "A self-contained file is needed, as hemf-export onnx writes it.",
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
