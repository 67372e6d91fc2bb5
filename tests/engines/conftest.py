"""What several tests of engines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import once
from tests.engines import cpp_build, real_engines
from tests.engines.cpp_probe import Probe


@pytest.fixture(scope="session")
def cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """What was built of the C++ library."""
    return cpp_build.built(request, tmp_path_factory)


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`m.engine`, built by the real TensorRT-RTX for a T4 from the `m.onnx` beside it. Nobody may change it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

    def make(folder: Path) -> None:
        real_engines.make(
            real_engines.tiny_graph(folder / "m.onnx"), folder / "m.engine", fields={"classes": ["a"]}
        )  # fmt: skip

    return once(tmp_path_factory, "real_engine", make) / "m.engine"
