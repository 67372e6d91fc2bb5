"""What the tests of the GPU check's steps share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hemf_export.gpu_check import material
from hemf_export.gpu_check.step import Place
from tests.conftest import once
from tests.engines import fake_tensorrt as fake


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Images and a network, with its graphs, in a folder of the test module's own."""

    def make(folder: Path) -> None:
        made = Place(folder, "cpu", small=True)
        with fake.installed(tmp_path_factory.mktemp("packages")) as patch:
            fake.on_a_gpu(patch)
            for source in (material.trained(made), material.untrained(made)):
                material.half(made, source)
                material.quantized(made, source)

    folder = tmp_path_factory.mktemp("gpu-check") / "work"
    shutil.copytree(once(tmp_path_factory, "gpu-check", make), folder)
    return Place(folder, "cpu", small=True)


@pytest.fixture
def t4(tmp_path_factory: pytest.TempPathFactory):
    """A machine with a T4 and both flavours of TensorRT."""
    with fake.installed(tmp_path_factory.mktemp("packages")) as patch:
        fake.on_a_gpu(patch)
        yield patch
