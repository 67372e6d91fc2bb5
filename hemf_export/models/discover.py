"""What lies in a folder: our ONNX files, and the checkpoints that they were made from."""

from __future__ import annotations

from pathlib import Path

from hemf_export.files.errors import BadInputError
from hemf_export.models.model_file import CheckpointFile, ModelFile
from hemf_export.models.onnx_file import OnnxFile


def onnx_files(folder: Path) -> list[OnnxFile]:
    """Our ONNX files in `folder`, by name; others are passed over."""
    return [file for file in OnnxFile.all_in(folder) if file.stored_description is not None]


def the_float32_file(folder: Path) -> Path:
    """The one float32 ONNX file of ours in `folder`.

    Raises:
        BadInputError: none, or several: they are listed.
    """
    ours = [file.path for file in onnx_files(folder) if file.precision == "fp32"]
    shown = folder.resolve()
    if len(ours) == 1:
        return ours[0]
    if ours:
        raise BadInputError(
            f"{len(ours)} float32 ONNX files lie in {shown}: {', '.join(path.name for path in ours)}.",
            "Name the one to build.",
        )
    others = [file.name for file in OnnxFile.all_in(folder)]
    seen = f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} not a float32 file of ours)" if others else ""
    raise BadInputError(
        f"No ONNX file with hemf-export metadata lies in {shown}{seen}.", "Make one: `export_onnx(CKPT)`."
    )


def checkpoint_of(folder: Path, sha256: str) -> CheckpointFile | None:
    """The checkpoint in `folder` with that hash."""
    return next((file for file in CheckpointFile.all_in(folder) if file.sha256 == sha256), None)


def origin_of(folder: Path, sha256: str) -> ModelFile | None:
    """What files with that `checkpoint_sha256` were made from, in `folder`: a checkpoint, or another's ONNX file."""
    others = (file for file in OnnxFile.all_in(folder) if not file.is_ours and _has_content(file, sha256))
    return checkpoint_of(folder, sha256) or next(others, None)


def _has_content(file: OnnxFile, sha256: str) -> bool:
    try:
        return file.content_sha256 == sha256
    except BadInputError:  # damaged, or with weights that aren't there
        return False
