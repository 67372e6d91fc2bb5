"""Steps of the GPU check that need a package which is missing say so at once, before files are made for them."""

from __future__ import annotations

import pytest

from hemf_export.engines import backends
from hemf_export.files.errors import MissingCapabilityError
from hemf_export.gpu_check import compared, engines, step
from hemf_export.gpu_check.step import Place, Step

STEPS = (engines.build, engines.run, engines.options, engines.latency, engines.ship, engines.rtx,
         compared.graph_forms, compared.int8)  # fmt: skip


@pytest.mark.parametrize("function", STEPS, ids=lambda function: function.__name__)
def test_a_missing_package(function: Step, tmp_path, monkeypatch):
    def load(name: str) -> None:
        raise MissingCapabilityError(f"{name} is not installed here.")

    monkeypatch.setattr(backends, "load", load)
    result = step.run("any", function, Place(tmp_path, "cpu", small=True))
    assert (result.outcome, result.checks) == ("can't run", ())
    assert "is not installed here" in result.reason
    assert not list(tmp_path.iterdir())
