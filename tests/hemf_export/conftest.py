"""Files that several tests read: exported once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from hemf import checkpoint
from hemf_export import fp16, onnx_export
from tests.conftest import tiny_checkpoint


@dataclass(frozen=True)
class Made:
    """A tiny checkpoint and what was made from it, in one folder."""

    folder: Path
    checkpoint: Path
    onnx: Path
    half: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    paths = Made(folder, folder / "model.pt", folder / "model.onnx", folder / "model.fp16.onnx")
    checkpoint.save(tiny_checkpoint(), paths.checkpoint)
    onnx_export.export(paths.checkpoint, paths.onnx, onnx_export.Options())
    fp16.convert(paths.onnx, paths.half)
    return paths
