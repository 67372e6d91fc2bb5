"""Find our ONNX files in a folder, and the checkpoints that they were made from."""

from __future__ import annotations

from pathlib import Path

from hemf_export.files.errors import BadInputError
from hemf_export.models.model_file import CheckpointFile, ModelFile, OnnxFile


def onnx_files(folder: Path) -> list[OnnxFile]:
    """List our ONNX files in `folder`, by name; others are ignored."""
    return [file for file in OnnxFile.all_in(folder) if file.stored_description is not None]


def the_float32_file(folder: Path) -> Path:
    """Find the only float32 ONNX file of ours in `folder`.

    Raises:
        BadInputError: there is none, or several, which the message lists.
    """
    ours = [file.path for file in onnx_files(folder) if file.description.precision == "fp32"]
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
    """Find the checkpoint in `folder` with that hash; None for none."""
    return next((file for file in CheckpointFile.all_in(folder) if file.sha256 == sha256), None)


def origin_of(folder: Path, sha256: str) -> ModelFile | None:
    """Find what files with that `checkpoint_sha256` were made from: a checkpoint, or an ONNX file that isn't ours."""
    others = (file for file in OnnxFile.all_in(folder) if not file.is_ours and _has_content(file, sha256))
    return checkpoint_of(folder, sha256) or next(others, None)


def _has_content(file: OnnxFile, sha256: str) -> bool:
    try:
        return file.content_sha256 == sha256
    except BadInputError:  # damaged, or with weights that aren't there
        return False
