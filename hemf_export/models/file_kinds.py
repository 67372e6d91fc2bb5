"""Recognize the kind of a model file by its content; only for damaged files by the name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO, Literal

from hemf_export.checkpoints import checkpoint_container
from hemf_export.engines import preflight
from hemf_export.files.errors import BadInputError
from hemf_export.images import folders

Kind = Literal["checkpoint", "onnx", "engine"]
# Usual extensions, which tell what damaged files were.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "checkpoint": (".pt", ".pth", ".ckpt", ".safetensors", ".bin"),
    "onnx": (".onnx",),
    "engine": (".engine", ".plan", ".trt"),
}
_MISSING: dict[Kind, tuple[str, str]] = {
    "checkpoint": ("checkpoint", "Is the path right?"),
    "onnx": ("ONNX file", "Make one: `export_onnx(CKPT)`."),
    "engine": ("engine", "Build one: `build_engine(MODEL.onnx, precision='fp16')`."),
}
TITLES: dict[Kind, str] = {"checkpoint": "a checkpoint", "onnx": "an ONNX file", "engine": "an engine"}
# Hints where a file is of another kind than is needed.
INSTEAD: dict[Kind, str | None] = {
    "checkpoint": "Name the checkpoint that it was made from.",
    "onnx": "Make one of a checkpoint: `export_onnx(CKPT)`.",
    "engine": None,
}
_MODEL_HINT = "The model's file comes first, then the images."
# First bytes of other files, what they are, and a hint.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image", _MODEL_HINT),
    (b"\x89PNG", "a PNG image", _MODEL_HINT),
    (b"GIF8", "a GIF image", _MODEL_HINT),
    (b"II*\0", "a TIFF image", _MODEL_HINT),
    (b"MM\0*", "a TIFF image", _MODEL_HINT),
    (b"\x28\xb5\x2f\xfd", "an archive (zstd), perhaps a bundle", "Name a model file that is in it."),
    (b"\x1f\x8b", "an archive (gzip)", "Unpack it, and name the model file that is in it."),
    (b"\x89HDF", "an HDF5 file, perhaps of Keras", "Export it to ONNX, for instance with tf2onnx."),
    (b"%PDF", "a PDF document", "A checkpoint, an ONNX file or an engine is needed."),
)
# Fields of onnx.ModelProto: number → wire type.
_VARINT, _BYTES = 0, 2
_ONNX_FIELDS = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, 7: _BYTES, 8: _BYTES, 14: _BYTES,
                20: _BYTES, 25: _BYTES, 26: _BYTES}  # fmt: skip
_ONNX_VERSION, _ONNX_GRAPH = 1, 7


def kind_of(path: Path) -> Kind:
    """Recognize the kind of a model file by its content.

    Where the content isn't recognized the name decides: reading the file will then report the damage.

    Raises:
        BadInputError: no file, or not a model; the message says what it is instead.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder, not a model.", "Name a checkpoint, an ONNX file or an engine.")
    if not path.is_file():
        raise missing(path, named(path))
    try:
        if (kind := _kind_of_content(path)) is not None:
            return kind
        with open(path, "rb") as file:
            start = file.read(checkpoint_container.START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    what, hint = _another(path, start)
    if what is None and (meant := named(path)) is not None:
        return meant
    raise BadInputError(
        f"{path} is not a checkpoint, an ONNX file or an engine" + (f": it is {what}." if what else "."),
        hint or "Name one of these; the name of a file is not looked at where its content is known.",
    )


def named(path: Path) -> Kind | None:
    """Kind of a file by its extension; None for any other."""
    name = path.name.lower().removesuffix(".tar")
    return next((kind for kind, endings in _NAMES.items() if name.endswith(endings)), None)


def stem(path: Path) -> str:
    """Strip extensions of models from a file name: `best.pth.tar` and `BEST.ONNX` → best, BEST."""
    known = "|".join(re.escape(ending) for endings in _NAMES.values() for ending in endings)
    return re.sub(rf"({known})?(\.tar)?$", "", path.name, count=1, flags=re.IGNORECASE) or path.name


def missing(path: Path, wanted: Kind | None) -> BadInputError:
    """Error for a path where no file is.

    Args:
        path: the path.
        wanted: the kind of file that is needed; None for any.
    """
    if wanted is None:
        return BadInputError(f"No file at {path}.", "A checkpoint, an ONNX file or an engine is needed.")
    title, way_out = _MISSING[wanted]
    return BadInputError(f"No {title} at {path}.", way_out)


def _kind_of_content(path: Path) -> Kind | None:
    """Kind of a file by its content; None where that is no model."""
    with open(path, "rb") as file:
        start = file.read(checkpoint_container.START_BYTES)
        if preflight.flavour(start) is not None:
            return "engine"
        names = checkpoint_container.members(path) if start[:2] == b"PK" else ()
        if checkpoint_container.container_of(start, names) is not None:
            return "checkpoint"
        return "onnx" if _has_graph(file) else None


def _another(path: Path, start: bytes) -> tuple[str | None, str | None]:
    """Describe what else a file seems to be, with a hint."""
    for magic, what, hint in _OTHERS:
        if start.startswith(magic):
            return what, hint
    if not start and named(path) is None:
        return "empty", None
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "a BMP image", _MODEL_HINT
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP image", _MODEL_HINT
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file", "Export the model to ONNX, for instance with tf2onnx."
    if start[:2] == b"PK":
        return "a zip archive without a state dict", "Unpack it, and name the model file that is in it."
    if start.lstrip()[:1] in (b"{", b"[") and path.suffix.lower() == ".json":
        described = path.with_suffix("")
        here = f": {described.name}" if described.is_file() else ""
        return "a JSON file, perhaps a manifest", f"Name the file that it describes{here}."
    return None, _MODEL_HINT if path.suffix.lower() in folders.EXTENSIONS else None


def _has_graph(file: BinaryIO) -> bool:
    """Whether a file is a protobuf message with the fields of ONNX's ModelProto, a graph among them.

    One that is truncated within its graph is recognized by the version field before it.
    """
    size = file.seek(0, 2)
    file.seek(0)
    seen: set[int] = set()
    while file.tell() < size:
        tag, value = _varint(file), _varint(file)
        if tag is None or value is None or _ONNX_FIELDS.get(tag >> 3) != tag & 7:
            break
        seen.add(tag >> 3)
        if tag & 7 == _BYTES and file.seek(min(value, size + 1), 1) > size:
            break
    whole = file.tell() == size
    return _ONNX_GRAPH in seen and (whole or _ONNX_VERSION in seen)


def _varint(file: BinaryIO) -> int | None:
    """Read a protobuf varint of at most ten bytes; None where there is none."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return value
    return None
