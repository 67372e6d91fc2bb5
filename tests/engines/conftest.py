"""What several tests of engines share."""

from __future__ import annotations

import pytest

from tests.engines import cpp_build
from tests.engines.cpp_probe import Probe


@pytest.fixture(scope="session")
def cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """What was built of the C++ library."""
    return cpp_build.built(request, tmp_path_factory)
