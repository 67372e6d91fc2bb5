"""What lies in a folder: our ONNX files, and the checkpoints that they were made from."""

from __future__ import annotations

from pathlib import Path

from hemf import artifacts
from hemf.errors import BadInputError
from hemf_export import model_kind, onnx_file
from hemf_export.description import Description


def onnx_files(folder: Path) -> list[tuple[Path, Description]]:
    """Our ONNX files in `folder`, by name; others are passed over."""
    glances = ((path, onnx_file.glance(path)) for path in model_kind.found_in(folder, "onnx"))
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
    others = [path.name for path in model_kind.found_in(folder, "onnx")]
    seen = f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} not a float32 file of ours)" if others else ""
    raise BadInputError(
        f"No ONNX file with hemf-export metadata lies in {shown}{seen}.", "Make one: hemf-export onnx CKPT."
    )


def description_of(path: Path) -> Description | None:
    """What one of our ONNX files, or the manifest of an engine, says of the model; None for other files."""
    kind = model_kind.kind_of(path)
    if kind == "onnx":
        return onnx_file.glance(path)
    manifest = artifacts.read_manifest(path) if kind == "engine" else None
    return None if manifest is None else Description.from_manifest(path, manifest)


def checkpoint_of(folder: Path, sha256: str) -> Path | None:
    """The checkpoint in `folder` with that hash."""
    files = model_kind.found_in(folder, "checkpoint")
    return next((path for path in files if artifacts.sha256(path) == sha256), None)


def origin_of(folder: Path, sha256: str) -> Path | None:
    """What files with that `checkpoint_sha256` were made from, in `folder`: a checkpoint, or another's ONNX file."""
    if found := checkpoint_of(folder, sha256):
        return found
    others = (path for path in model_kind.found_in(folder, "onnx") if not onnx_file.is_ours(path))
    return next((path for path in others if _has_hash(path, sha256)), None)


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return onnx_file.sha256(path) == sha256
    except BadInputError:  # damaged, or with weights that aren't there
        return False
