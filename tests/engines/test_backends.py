"""Which builder serves a target, and builders that can't be imported."""

from __future__ import annotations

import pytest

from hemf_export.engines import backends, targets
from hemf_export.files.errors import MissingCapabilityError


def test_auto_takes_tensorrt_on_a_gpu_of_the_target_else_rtx(monkeypatch):
    target = targets.find("t4")
    monkeypatch.setattr(backends, "_installed", lambda name: True)
    for gpu, expected in (((7, 5), "tensorrt"), ((8, 9), "tensorrt-rtx"), (None, "tensorrt-rtx")):
        monkeypatch.setattr(backends, "gpu_capability", lambda gpu=gpu: gpu)
        assert backends.choose("auto", target) == expected
    monkeypatch.setattr(backends, "gpu_capability", lambda: (8, 9))
    with pytest.raises(MissingCapabilityError, match="here is a GPU of sm_89"):
        backends.choose("tensorrt", target)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("no"), ImportError("libnvinfer.so.11"), RuntimeError("CUDA"), OSError("x")]
)
def test_a_backend_that_cannot_be_imported_is_exit_4_with_the_install_command(monkeypatch, error):
    def fail(name: str, *rest: object) -> object:
        raise error

    monkeypatch.setattr(backends.importlib, "import_module", fail)
    with pytest.raises(MissingCapabilityError, match="tensorrt-rtx") as refused:
        backends.load("tensorrt-rtx")
    assert refused.value.exit_code == 4
    assert "pip install" in str(refused.value.hint)
