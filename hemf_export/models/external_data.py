"""External data of ONNX models: weights in files beside the model, as torch's exporter writes them.

As a path in a model file could make us read any file, it must lead to a regular file in the model's folder or below,
through no link, and every range must be inside that file; only initializers may be external. In a file of ours external
data is refused without being read.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError

_SHOWN = 5
_LARGEST = 2**31 - 1  # bytes: protobuf's limit for a model and its weights together


def load(path: Path, model: onnx.ModelProto) -> None:
    """Load the external weights of `model`, parsed from `path`, so that it is self-contained.

    Raises:
        BadInputError: a path out of the folder or through a link; a missing file; a range outside the file or of
            another length than its tensor; more than 2 GB.
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


def refuse(path: Path, model: onnx.ModelProto) -> None:
    """Raise BadInputError where any tensor of `model` is in another file."""
    outside = [tensor.name for tensor in _tensors(model) if tensor.external_data or tensor.data_location]
    if outside:
        raise BadInputError(
            f"{path} keeps {len(outside)} tensors in other files ({', '.join(outside[:_SHOWN])}): refused.",
            "A self-contained file is needed, as `export_onnx()` writes it.",
        )


def content_sha256(path: Path, sha256: str, model: onnx.ModelProto) -> str:
    """Hash of a file and its external weights.

    Args:
        path: the file.
        sha256: its own hash, which is the result where it has no external weights.
        model: the parsed file.

    Raises:
        BadInputError: a file of weights is missing or refused.
    """
    others = _external_names(model)
    if not others:
        return sha256
    digest = hashlib.sha256(sha256.encode())
    for name in others:
        digest.update(artifacts.sha256(_contained(path, name)).encode())
    return digest.hexdigest()


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: initializers, attributes, subgraphs, functions and defaults, training graphs."""
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
    """Names of the files with external initializers of the main graph, sorted."""
    return tuple(sorted({_entries(tensor).get("location", "") for tensor in _outside(model.graph.initializer)}))


def _outside(tensors: Sequence[onnx.TensorProto]) -> list[onnx.TensorProto]:
    return [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _length(path: Path, tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor, by its shape and type; raises where its entry disagrees."""
    if min(tensor.dims, default=0) < 0:
        raise _refused(path, f"{tensor.name} has a negative size")
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise _refused(path, f"{tensor.name} has an unknown type") from error
    length = math.prod(tensor.dims) * item
    stated = _entries(tensor).get("length")
    if stated is not None and _number(path, tensor, stated) != length:
        raise _refused(path, f"{tensor.name} needs {length} bytes, and its entry says {stated}")
    return length


def _number(path: Path, tensor: onnx.TensorProto, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _refused(path, f"{tensor.name} has the offset or length {text!r}")
    return int(text)


def _contained(path: Path, name: str) -> Path:
    """Resolve the path `name` to a regular file in the model's folder or below, or raise."""
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
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, f"{name} is no ordinary file")
    if status.st_nlink > 1:
        raise _refused(path, f"{name} is a hard link", "Put a copy of the file beside the model.")
    return file


def _opened(path: Path, file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise BadInputError(f"{path} keeps weights in {file}, which can't be read: {error.strerror}.") from error


def _refused(path: Path, why: str, hint: str = "Export the model again.") -> BadInputError:
    return BadInputError(f"{path} keeps weights in other files: refused, {why}.", hint)
