"""What a model file is, told by its content: the name only says what damaged bytes were meant to be.

    kind_of(Path("BEST.ENGINE")), kind_of(Path("pytorch_model.bin"))  # "engine", "checkpoint"

Nothing is run, and little of the file is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO, Literal

from engines import plan_header
from hemf import checkpoint_container, folders
from hemf.errors import BadInputError

Kind = Literal["checkpoint", "onnx", "engine"]
TITLES: dict[Kind, str] = {"checkpoint": "a checkpoint", "onnx": "an ONNX file", "engine": "an engine"}
# What files are usually called; of damaged ones nothing else tells what they were.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "checkpoint": (".pt", ".pth", ".ckpt", ".safetensors", ".bin"),
    "onnx": (".onnx",),
    "engine": (".engine", ".plan", ".trt"),
}
_MISSING: dict[Kind, tuple[str, str]] = {
    "checkpoint": ("checkpoint", "Is the path right?"),
    "onnx": ("ONNX file", "Make one: hemf-export onnx CKPT."),
    "engine": ("engine", "Build one: hemf-export trt MODEL.onnx --fp16."),
}
_MODEL_HINT = "The model's file comes first, then the images."
# First bytes → what such a file is, and what helps.
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
    """What a model file is.

    Of content that tells nothing the name is believed: whoever reads the file will find it damaged, and say of what.

    Raises:
        BadInputError: no file, or one of another sort: it is said which.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder, not a model.", "Name a checkpoint, an ONNX file or an engine.")
    if not path.is_file():
        meant = named(path)
        if meant is None:
            raise BadInputError(f"No file at {path}.", "A checkpoint, an ONNX file or an engine is needed.")
        title, way_out = _MISSING[meant]
        raise BadInputError(f"No {title} at {path}.", way_out)
    try:
        found = glance(path)
        if found is not None:
            return found
        with open(path, "rb") as file:
            start = file.read(checkpoint_container.START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    what, hint = _another(path, start)
    if what is None and (meant := named(path)) is not None:
        return meant
    raise BadInputError(
        f"{path} is not a checkpoint, an ONNX file or an engine" + (f": it is {what}." if what else "."), hint
    )


def glance(path: Path) -> Kind | None:
    """What the content of a file says; None where it is no model."""
    with open(path, "rb") as file:
        start = file.read(checkpoint_container.START_BYTES)
        if plan_header.flavour(start) is not None:
            return "engine"
        names = checkpoint_container.members(path) if start[:2] == b"PK" else ()
        if checkpoint_container.container_of(start, names) is not None:
            return "checkpoint"
        return "onnx" if _has_graph(file) else None


def named(path: Path) -> Kind | None:
    """What a file's name says it was meant to be."""
    name = path.name.lower().removesuffix(".tar")
    return next((kind for kind, endings in _NAMES.items() if name.endswith(endings)), None)


def require(path: Path, wanted: Kind, hint: str | None = None) -> None:
    """Refuse a model file of another kind.

    Raises:
        BadInputError: see `kind_of`; it is another kind.
    """
    if (kind := kind_of(path)) != wanted:
        raise BadInputError(f"{path} is {TITLES[kind]}, not {TITLES[wanted]}.", hint)


def found_in(folder: Path, wanted: Kind) -> list[Path]:
    """The files of a kind that lie in a folder, damaged ones too, by name; hidden ones don't count."""
    entries = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return [path for path in entries if path.is_file() and _is(path, wanted)]


def stem(path: Path) -> str:
    """A model file's name without the endings that say what it is: `best.pth.tar` and `BEST.ONNX` → best, BEST."""
    known = "|".join(re.escape(ending) for endings in _NAMES.values() for ending in endings)
    return re.sub(rf"({known})?(\.tar)?$", "", path.name, count=1, flags=re.IGNORECASE) or path.name


def _is(path: Path, wanted: Kind) -> bool:
    try:
        return kind_of(path) == wanted
    except BadInputError:
        return False


def _another(path: Path, start: bytes) -> tuple[str | None, str | None]:
    """What else a file seems to be, and what helps."""
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

    One that is cut short within its graph is known by the version before it.
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
    """A protobuf varint of at most ten bytes; None where there is none."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return value
    return None
