"""Files that several tests read: exported once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from hemf import artifacts, checkpoint
from hemf_export import fp16, onnx_export, precision, runners
from tests.conftest import Quiet, tiny_checkpoint, write_class_folders


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


@pytest.fixture
def copies(made: Made, tmp_path: Path) -> Made:
    """The files in a folder where they may be changed."""
    for path in made.folder.iterdir():
        shutil.copy(path, tmp_path)
    return Made(tmp_path, *(tmp_path / path.name for path in (made.checkpoint, made.onnx, made.half)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with five images each."""
    return write_class_folders(tmp_path_factory.mktemp("images"), 5, seed=3)


@pytest.fixture(scope="session")
def trained(trained_checkpoint: Path) -> Path:
    """The ONNX file of a tiny network that learned to tell the pictures apart, beside its checkpoint."""
    path = trained_checkpoint.with_suffix(".onnx")
    onnx_export.export(trained_checkpoint, path, onnx_export.Options())
    return path


@pytest.fixture(scope="session")
def int8(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of the trained network, beside copies of all that it was made from; no budget, so quickly made."""
    folder = tmp_path_factory.mktemp("int8")
    for name in ("best.pt", trained.name, artifacts.manifest_path(trained).name):
        shutil.copy(trained.parent / name, folder)
    request = precision.Request(
        folder / trained.name, "int8", pictures, count=12, judges=12, method="max", output=folder / "best.int8.onnx"
    )
    return precision.make(request, Quiet()).path


def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no model may run: what is refused is refused before."""
    for runner in (runners.TorchRunner, runners.OnnxRunner):
        monkeypatch.setattr(runner, "infer", lambda *_: pytest.fail("an image was run"))
