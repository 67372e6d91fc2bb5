"""Files that several tests read: made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.models import runners
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request
from tests.conftest import Made, once, write_class_folders
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


@pytest.fixture
def exported_before(made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of `made`, whose graph is there at once, for what comes after it."""
    monkeypatch.setattr(onnx_export, "export_graph", lambda *_: ir.load(made.onnx))
    return made.checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with five images each."""
    return once(tmp_path_factory, "images", lambda root: write_class_folders(root, 5, seed=3))


@pytest.fixture(scope="session")
def trained(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a third of the network, which learned to tell the pictures apart, beside its checkpoint."""
    return exported(tmp_path_factory, "trained", trained_checkpoint)


@pytest.fixture(scope="session")
def whole_trained(whole_trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a network with every kind of block, beside its checkpoint."""
    return exported(tmp_path_factory, "whole_trained", whole_trained_checkpoint)


def exported(factory: pytest.TempPathFactory, name: str, checkpoint: Path) -> Path:
    def make(folder: Path) -> None:
        shutil.copy(checkpoint, folder / "best.pt")
        onnx_export.export(folder / "best.pt", folder / "best.onnx", onnx_export.Options())

    return once(factory, name, make) / "best.onnx"


@pytest.fixture(scope="session")
def int8(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of the trained network, beside copies of all that it was made from; no budget, so quickly made."""
    return quantized_beside(tmp_path_factory, "int8", trained, pictures)


@pytest.fixture(scope="session")
def whole_int8(whole_trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of the network with every kind of block, beside copies of all that it was made from."""
    return quantized_beside(tmp_path_factory, "whole_int8", whole_trained, pictures)


def quantized_beside(factory: pytest.TempPathFactory, folder_name: str, trained: Path, pictures: Path) -> Path:
    def make(folder: Path) -> None:
        for name in ("best.pt", trained.name, artifacts.manifest_path(trained).name):
            shutil.copy(trained.parent / name, folder)
        source, output = folder / trained.name, folder / "best.int8.onnx"
        quantize.make(Request(source, "int8", pictures, count=12, held_out_count=12, method="max", output=output))

    return once(factory, folder_name, make) / "best.int8.onnx"


def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no model may run: what is refused is refused before."""
    for runner in (runners.TorchRunner, runners.OnnxRunner):
        monkeypatch.setattr(runner, "infer", lambda *_: pytest.fail("an image was run"))
