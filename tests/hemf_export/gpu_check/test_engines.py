"""The steps of the GPU check that build and run engines, with the stand-in of TensorRT that computes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hemf_export
from hemf_export.gpu_check import engines, material, step
from hemf_export.gpu_check.step import Place, Result
from tests.engines import fake_tensorrt as fake

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A machine with a T4 and both flavours of TensorRT."""
    with fake.installed(tmp_path_factory.mktemp("packages")) as patch:
        fake.on_a_gpu(patch)
        yield Place(tmp_path_factory.mktemp("gpu-check"), "cpu", small=True)


def outcomes(result: Result) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


def test_build(place):
    result = step.run("tensorrt-build", engines.build, place)
    found = outcomes(result)
    assert result.reason == ""
    assert "timing cache" in found  # which the stand-in need not gain from
    assert (found["fp16"], found["int8"]) == ("passed", "passed"), result.checks


def test_run(place):
    result = step.run("tensorrt-run", engines.run, place)
    assert (result.outcome, result.reason) == ("passed", ""), result.checks
    each = ("runs", "graphs equal to the bit", "layers")
    names = {f"{precision}: {what}" for precision in ("fp16", "int8") for what in each}
    assert set(outcomes(result)) == {*names, "strict self-test of a bundle"}


def test_options(place):
    result = step.run("tensorrt-options", engines.options, place)
    assert outcomes(result) == {"stripped": "passed", "version-compatible": "passed"}, result.checks


def test_rtx(place, monkeypatch):
    monkeypatch.setattr(engines, "_self_test_in_a_process", lambda path: float(hemf_export.self_test(path).passed))
    result = step.run("rtx-run", engines.rtx, place)
    assert outcomes(result)["first start"] == outcomes(result)["second start"] == "passed", result.checks
    assert outcomes(result)["the second start is faster"] == "failed", "both took as long"


def test_an_engine_that_computes_something_else_fails(place, tmp_path, monkeypatch):
    wrong = Place(tmp_path, "cpu", small=True)
    source = material.trained(place)
    monkeypatch.setattr(material, "trained", lambda _: source)
    built = engines.engine(place, material.half(place, source), "fp16", "tensorrt")
    monkeypatch.setattr(engines, "_SIZES", (1, 2))
    monkeypatch.setattr(
        "hemf_export.engines.runner.EngineRunner.infer", lambda self, batch: batch.reshape(len(batch), -1)[:, :3]
    )
    result = step.run("tensorrt-run", engines.run, wrong)
    assert result.outcome == "failed"
    assert outcomes(result)["fp16: runs"] == "failed", (built, result.checks)
