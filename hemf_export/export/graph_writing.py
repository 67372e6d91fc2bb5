"""Write a graph as one ONNX file, and check that what was written is what was proven.

Weights are written one by one: the protobuf library would hold the model three times over.

A proof of a float16 graph runs an emulation of it in memory. The file itself may fail where that doesn't: an operator
may have no kernel for its types, or the file may be incomplete. So every file is also run itself before it is kept.
ONNX Runtime on a CPU computes float16 in float32: its logits differ from the emulated ones by float16's rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from hemf_export.calibration.session import Session, skeleton
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.metrics.comparison import compare

_MOST_BYTES = 2**31 - 1  # protobuf's limit for a message
_LENGTH_DELIMITED = 2  # protobuf's wire type for messages and bytes
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER

CHECKED_IMAGES = 16  # of those that the proof ran on
_SHARE = 0.05  # of the logits' variation between images: float16 rounding may move INT8 values by a step
_ROUNDING = 2e-3  # of the largest logit
_NOT_KEPT = "The file was not kept. A float32 graph of ONNX's own operators is needed, not optimized for one runtime."
_TIMES = 3.0  # times the emulated logits' difference from the reference


def save(model: ir.Model, path: Path) -> None:
    """Write `model` to `path` as one file; the model isn't changed.

    Fields of a protobuf message may be in any order: the weights are the last of the graph, and the graph the last.

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


def check_written(
    path: Path,
    name: str,
    batches: Iterable[NDArray[np.generic]],
    proven: NDArray[np.float32],
    reference: NDArray[np.float32],
    output: ModelOutput = LOGITS,
) -> dict[str, Any]:
    """Read back a file before it is kept, and run it on some images of its proof.

    Args:
        path: the temporary file.
        name: its final name, for messages.
        batches: network input of the proof, from its first image on; about `CHECKED_IMAGES` are used.
        proven: logits (n, classes) of the proof's images by the proven graph, with float16 emulated.
        reference: logits (n, classes) of the proof's images by the reference.
        output: meaning of the model's output.

    Returns:
        For its manifest: the `runner` of the file, and the comparison of its logits with the proven graph's
        (`against_proven`, see `metrics.comparison`). The proof has the difference from the reference.

    Raises:
        CheckFailedError: it isn't a valid ONNX file, ONNX Runtime can't load or run it, or its logits differ.
    """
    parts: list[NDArray[np.float32]] = []
    try:
        onnx.checker.check_model(onnx.load(path))
        session = Session(path, name=name, output=output)
        for batch in batches:
            parts.append(session.logits(batch))
            if sum(map(len, parts)) >= CHECKED_IMAGES:
                break
    except (onnx.checker.ValidationError, DecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckFailedError(f"{name} as written is no valid ONNX file: {reason}", _NOT_KEPT) from error
    except BadInputError as error:
        raise CheckFailedError(f"{name} as written does not run: {error.message}", _NOT_KEPT) from error
    actual = np.concatenate(parts)
    emulated, exact = proven[: len(actual)], reference[: len(actual)].astype(np.float64)
    against_proven = compare(actual, emulated, output=output)
    proof = compare(emulated, exact, output=output)
    difference, spread = against_proven.logit_difference.max, float(np.abs(exact - exact.mean(0)).max())
    allowed = max(_SHARE * spread, _ROUNDING * proof.largest_logit, _TIMES * proof.logit_difference.max)
    if not difference <= allowed:
        what = f"differ by {difference:.3g}, bound {allowed:.3g}" if against_proven.finite else "are not finite"
        raise CheckFailedError(
            f"{name} as written, in ONNX Runtime: its logits {what}, from the proven ones ({len(actual)} images).",
            _NOT_KEPT,
        )
    return {"runner": "ONNX Runtime on a CPU", "against_proven": against_proven.to_dict()}


def _head(initializer: onnx.TensorProto) -> bytes:
    """Serialize a weight's message without its data."""
    plain = onnx.TensorProto(name=initializer.name, data_type=initializer.data_type, dims=initializer.dims)
    return plain.SerializeToString()


def _write_array(file: BinaryIO, array: NDArray[np.generic]) -> None:
    """Write an array in little-endian order, as ONNX requires."""
    file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def _tag(field: int, size: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(size)


def _field_size(field: int, size: int) -> int:
    return len(_tag(field, size)) + size


def _varint(value: int) -> bytes:
    """Encode a protobuf varint: seven bits a byte, lowest first; the eighth marks that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
