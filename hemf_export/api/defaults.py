"""Paths that the command line takes where its user names none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hemf_export.api.results import PathLike, paths_of


def float32_file(folder: PathLike = ".") -> Path:
    """Find the only float32 ONNX file of ours in a folder.

    Raises:
        BadInputError: there is none, or several.
    """
    from hemf_export.models import discover

    return discover.the_float32_file(Path(folder))


def evaluation_folder(models: PathLike | Iterable[PathLike]) -> Path:
    """Folder of an evaluation: `NAME.evaluation` beside the model; of several models, `evaluation` here."""
    from hemf_export.evaluation import evaluation

    return evaluation.default_folder(paths_of(models))
