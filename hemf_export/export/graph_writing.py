"""Writing a graph as one ONNX file, weight by weight: the protobuf library would hold it three times over."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.session import skeleton
from hemf_export.files.errors import BadInputError

_MOST_BYTES = 2**31 - 1  # of a message: what protobuf reads
_LENGTH_DELIMITED = 2  # protobuf's wire type of messages and bytes
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def save(model: ir.Model, path: Path) -> None:
    """Write `model` to `path` as one file; the model stays as it was.

    Fields of a message may come in any order: the weights are the last of the graph's, and the graph the last of all.

    Raises:
        BadInputError: it is larger than 2 GB.
    """
    proto, weights = skeleton(model)
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    proto.ClearField("graph")
    heads = {name: _head(initializer) for initializer in graph.initializer if (name := initializer.name) in weights}
    small = [initializer for initializer in graph.initializer if initializer.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    before, inside = proto.SerializeToString(), graph.SerializeToString()
    sizes = {name: len(heads[name]) + _field_size(_RAW_DATA, array.nbytes) for name, array in weights.items()}
    whole = len(inside) + sum(_field_size(_INITIALIZER, size) for size in sizes.values())
    if len(before) + _field_size(_GRAPH, whole) > _MOST_BYTES:
        raise BadInputError("The graph is larger than 2 GB, which one ONNX file can't hold.")
    with path.open("wb") as file:
        file.write(before)
        file.write(_tag(_GRAPH, whole))
        file.write(inside)
        for name, array in weights.items():
            file.write(_tag(_INITIALIZER, sizes[name]))
            file.write(heads[name])
            file.write(_tag(_RAW_DATA, array.nbytes))
            _write_array(file, array)


def _head(initializer: onnx.TensorProto) -> bytes:
    """A weight's message but for its data."""
    plain = onnx.TensorProto(name=initializer.name, data_type=initializer.data_type, dims=initializer.dims)
    return plain.SerializeToString()


def _write_array(file: BinaryIO, array: NDArray[np.generic]) -> None:
    """Little-endian, as ONNX has it."""
    file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def _tag(field: int, size: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(size)


def _field_size(field: int, size: int) -> int:
    return len(_tag(field, size)) + size


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
