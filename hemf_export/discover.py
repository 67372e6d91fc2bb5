"""What lies in a folder: our ONNX files, and the checkpoints that they were made from."""

from __future__ import annotations

from pathlib import Path

from hemf import artifacts
from hemf.errors import BadInputError
from hemf_export import onnx_file
from hemf_export.description import Description

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


def onnx_files(folder: Path) -> list[tuple[Path, Description]]:
    """Our ONNX files in `folder`, by name; others are passed over."""
    glances = ((path, onnx_file.glance(path)) for path in sorted(folder.glob("*.onnx")) if path.is_file())
    return [(path, description) for path, description in glances if description is not None]


def the_float32_file(folder: Path) -> Path:
    """The one float32 ONNX file of ours in `folder`.

    Raises:
        BadInputError: none, or several: they are listed.
    """
    found = [path for path, description in onnx_files(folder) if description.precision == "fp32"]
    shown = folder.resolve()
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInputError(
            f"{len(found)} float32 ONNX files lie in {shown}: {', '.join(path.name for path in found)}.",
            "Name the one to build.",
        )
    others = sorted(path.name for path in folder.glob("*.onnx"))
    seen = f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} not a float32 file of ours)" if others else ""
    raise BadInputError(
        f"No ONNX file with hemf-export metadata lies in {shown}{seen}.", "Make one: hemf-export onnx CKPT."
    )


def checkpoint_of(folder: Path, sha256: str) -> Path | None:
    """The checkpoint in `folder` with that hash."""
    for path in sorted(folder.iterdir()):
        if path.suffix in CHECKPOINT_SUFFIXES and path.is_file() and artifacts.sha256(path) == sha256:
            return path
    return None


def origin_of(folder: Path, sha256: str) -> Path | None:
    """What files with that `checkpoint_sha256` were made from, in `folder`: a checkpoint, or another's ONNX file."""
    if found := checkpoint_of(folder, sha256):
        return found
    others = (path for path in sorted(folder.glob("*.onnx")) if path.is_file() and not onnx_file.is_ours(path))
    return next((path for path in others if _has_hash(path, sha256)), None)


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return onnx_file.sha256(path) == sha256
    except BadInputError:  # no ONNX file, or weights that aren't there
        return False
