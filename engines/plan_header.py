"""What the first bytes of a plan tell without TensorRT: its flavour, and the version that serialized it.

The layout is the one that trtexec's `--getPlanVersionOnly` reads: a tag, a serialization version of 0, and the four
numbers of the version at byte 24. TensorRT-RTX has another tag (seen in plans of 1.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hemf_export.engines.backends import BackendName
from hemf_export.files.errors import BadInputError

_TAGS: dict[bytes, BackendName] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_BYTES = 28


@dataclass(frozen=True)
class PlanHeader:
    """The start of a plan.

    Args:
        backend: whose plan it is.
        version: that serialized it, `10.16.1.11`; None where a newer layout hides it.
    """

    backend: BackendName
    version: str | None


def flavour(start: bytes) -> BackendName | None:
    """Whose plan begins like this; None for what is no plan."""
    return _TAGS.get(start[:4])


def read(path: Path) -> PlanHeader:
    """The header of a plan.

    Raises:
        BadInputError: no such file, or not the start of a plan.
    """
    if not path.is_file():
        raise BadInputError(f"No engine at {path}.", "Build one: `build_engine(MODEL.onnx, precision='fp16')`.")
    try:
        with open(path, "rb") as file:
            start = file.read(_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    backend = flavour(start)
    if len(start) < _BYTES or backend is None:
        what = "it is empty" if not start else "it does not begin as one"
        raise BadInputError(f"{path} is not a TensorRT plan: {what}.", "Build it again: `build_engine()`.")
    layout = int.from_bytes(start[4:8], "little")
    return PlanHeader(backend, ".".join(str(number) for number in start[24:28]) if layout == 0 else None)
