"""Files that several tests read: made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hemf import artifacts
from hemf_export import onnx_export, precision, runners
from tests.conftest import Made, Quiet, once, write_class_folders
from tests.engines import cpp_build
from tests.engines.cpp_probe import Probe


@pytest.fixture(scope="session")
def cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """What was built of the C++ library."""
    return cpp_build.built(request, tmp_path_factory)


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
def trained(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a tiny network that learned to tell the pictures apart, beside its checkpoint."""

    def make(folder: Path) -> None:
        shutil.copy(trained_checkpoint, folder / "best.pt")
        onnx_export.export(folder / "best.pt", folder / "best.onnx", onnx_export.Options())

    return once(tmp_path_factory, "trained", make) / "best.onnx"


@pytest.fixture(scope="session")
def int8(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of the trained network, beside copies of all that it was made from; no budget, so quickly made."""

    def make(folder: Path) -> None:
        for name in ("best.pt", trained.name, artifacts.manifest_path(trained).name):
            shutil.copy(trained.parent / name, folder)
        source, output = folder / trained.name, folder / "best.int8.onnx"
        precision.make(
            precision.Request(source, "int8", pictures, count=12, judges=12, method="max", output=output), Quiet()
        )

    return once(tmp_path_factory, "int8", make) / "best.int8.onnx"


def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no model may run: what is refused is refused before."""
    for runner in (runners.TorchRunner, runners.OnnxRunner):
        monkeypatch.setattr(runner, "infer", lambda *_: pytest.fail("an image was run"))
