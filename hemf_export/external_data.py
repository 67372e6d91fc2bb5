"""Weights that an ONNX file keeps in files beside it, as torch's exporter writes them: read if they are contained.

A path in a model file is an attacker's chance to have another file read. So a name must lead to an ordinary file in the
model's own folder or below, through no link, and every range must lie inside it; only initializers may be outside.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx

from hemf import artifacts
from hemf.errors import BadInputError

_LARGEST = 2**31 - 1  # bytes of a message that protobuf takes: a model and its weights together


def names(model: onnx.ModelProto) -> tuple[str, ...]:
    """The files that the main graph's initializers are in, in order of their names."""
    return tuple(sorted({_entries(tensor).get("location", "") for tensor in _outside(model.graph.initializer)}))


def load(path: Path, model: onnx.ModelProto) -> None:
    """Read the weights of `model`, a parsed file at `path`, into it; it is self-contained then.

    Raises:
        BadInputError: a name that leaves the folder or a link; a missing file; a range outside a file or of another
            length than its tensor; more than 2 GB.
    """
    tensors = _outside(model.graph.initializer)
    sizes = [_length(path, tensor) for tensor in tensors]
    if sum(sizes) + model.ByteSize() > _LARGEST:
        raise BadInputError(f"{path} and its weights are larger than 2 GB, which one ONNX file can't hold.")
    for name in names(model):
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


def sha256(path: Path, model: onnx.ModelProto) -> str:
    """Hash of a model file; where it has weights in other files, of it and them.

    Raises:
        BadInputError: a name that leaves the folder, or a missing file.
    """
    own = artifacts.sha256(path)
    others = names(model)
    if not others:
        return own
    digest = hashlib.sha256(own.encode())
    for name in others:
        digest.update(artifacts.sha256(_contained(path, name)).encode())
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
