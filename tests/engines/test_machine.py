"""What is told of this machine: its driver, and the CUDA that TensorRT is built for; libraries and packages made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hemf_export.engines import backends, machine
from tests.engines import fake_tensorrt as fake


class Library:
    """An NVIDIA driver's."""

    def __init__(self, version: int, code: int) -> None:
        self.version, self.code = version, code

    def cuDriverGetVersion(self, version) -> int:  # noqa: N802
        version._obj.value = self.version
        return self.code


@pytest.mark.parametrize(
    ("version", "code", "expected"),
    [(12080, 0, (12, 8)), (11100, 0, (11, 10)), (13000, 0, (13, 0)), (0, 0, None), (12080, 3, None)],
)
def test_the_driver_tells_the_cuda_that_it_serves(monkeypatch, version, code, expected):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Library(version, code))
    assert machine.driver() == expected


@pytest.mark.parametrize("name", ["none", "of another maker"])
def test_without_a_driver_nothing_is_told(monkeypatch, name):
    def load(path: str) -> object:
        if name == "none":
            raise OSError(f"{path}: cannot open shared object file")
        return object()

    monkeypatch.setattr(machine.ctypes, "CDLL", load)
    assert machine.driver() is None


def packages(folder: Path, *names: str) -> Path:
    """A folder that pip might have filled."""
    for name in names:
        place = folder / f"{name}-10.16.1.11.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 10.16.1.11\n")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("tensorrt", "tensorrt_cu13", "tensorrt_cu13_libs"), 13),
        (("tensorrt_cu12",), 12),
        (("tensorrt_rtx_cu13", "tensorrt"), None),
        (("tensorrt_cu12", "tensorrt_cu13"), None),
        ((), None),
    ],
)
def test_the_wheels_name_tells_the_cuda_that_tensorrt_is_built_for(tmp_path, monkeypatch, names, expected):
    others = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(packages(tmp_path, *names)), *others])
    assert backends.cuda_major("tensorrt") == expected


def test_the_installed_tensorrt_rtx_tells_its_cuda():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    assert backends.cuda_major("tensorrt-rtx") == 12, "as pyproject.toml asks for"


def test_this_machine_is_asked_for_all_of_it(monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Library(12080, 0))
    with fake.installed():
        fake.on_a_gpu(monkeypatch, (8, 9))
        monkeypatch.setattr(backends, "cuda_major", {"tensorrt": None, "tensorrt-rtx": 13}.get)
        found = machine.here()
        alone = machine.here(("tensorrt",))
    assert (found.gpu, found.versions, found.driver) == ((8, 9), fake.VERSIONS, (12, 8))
    assert found.cuda == {"tensorrt-rtx": 13}
    assert (list(alone.versions), alone.cuda) == (["tensorrt"], {})
