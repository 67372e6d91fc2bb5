"""The steps of the GPU check that build and run engines, with the stand-in of TensorRT that computes on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import hemf_export
from hemf_export.engines.runner import EngineRunner
from hemf_export.gpu_check import benchmark, compared, engines, step
from hemf_export.gpu_check.step import Result

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("t4")]


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
    assert set(outcomes(result)) == {*names, "raw images", "strict self-test of a bundle"}


def test_options(place):
    result = step.run("tensorrt-options", engines.options, place)
    assert outcomes(result) == {"stripped": "passed", "version-compatible": "passed", "tuned": "passed"}, result.checks


def test_rtx(place, monkeypatch):
    monkeypatch.setattr(engines, "_self_test_in_a_process", lambda path: float(hemf_export.self_test(path).passed))
    result = step.run("rtx-run", engines.rtx, place)
    assert outcomes(result)["first start"] == outcomes(result)["second start"] == "passed", result.checks
    assert outcomes(result)["the second start is faster"] == "failed", "both took as long"


def test_an_engine_that_computes_something_else_fails(place, monkeypatch):
    def other(self: EngineRunner, batch: np.ndarray) -> np.ndarray:
        return np.asarray(batch.reshape(len(batch), -1)[:, :3], np.float32)

    monkeypatch.setattr(EngineRunner, "infer", other)
    found = outcomes(step.run("tensorrt-run", engines.run, place))
    assert found["fp16: runs"] == found["int8: runs"] == "failed", found


def test_ship(place):
    result = step.run("ship", engines.ship, place)
    assert outcomes(result) == {"ship": "passed", "strict self-test": "passed"}, (result.reason, result.checks)


class Timed:
    """The benchmark of a GPU that isn't there."""

    problem = None

    def __init__(self, *kinds: str, ms: float = 1.0, share: float | None = 0.5, lost: tuple[str, ...] = ()) -> None:
        timings = [
            {
                "runner": kind, "batch": batch, "name": f"{kind}, best", "share_of_floor": share,
                "precision": "int8" if place else "fp16", "latency_ms": {"p50": ms * (place + 1)},
            }
            for batch in (1, 8) for place, kind in enumerate(kinds)
        ]  # fmt: skip
        conditions = {
            "gpu": {"sm_mhz": [900, 1590], "memory_mhz": [5001, 5001], "power_w": [20, 70], "temperature_c": [40, 60]}
        }
        not_run = [{"name": f"{name}, best", "reason": "no library", "failed": False} for name in lost]
        self.values = {"timings": timings, "not_run": not_run, "conditions": conditions}


def test_latency(place, monkeypatch):
    kinds = ("engine", "engine-no-graph", "eager", "amp", "compile-amp")
    monkeypatch.setattr(hemf_export, "benchmark", lambda files, **options: Timed(*kinds))
    result = step.run("tensorrt-latency", engines.latency, place)
    assert (result.outcome, result.reason) == ("passed", ""), result.checks
    assert len(result.checks) == 7
    monkeypatch.setattr(hemf_export, "benchmark", lambda files, **options: Timed("eager", lost=("engine",)))
    assert step.run("tensorrt-latency", engines.latency, place).reason == "engine, best: no library"
    monkeypatch.setattr(hemf_export, "benchmark", lambda files, **options: Timed("eager", "engine", share=1.5))
    found = outcomes(step.run("tensorrt-latency", engines.latency, place))
    assert (found["no faster than the floor"], found["faster than eager, batch 1"]) == ("failed", "failed")
    assert found["faster than amp, batch 1"] == "can't run"


def test_int8(place, monkeypatch):
    monkeypatch.setattr(hemf_export, "benchmark", lambda files, **options: Timed("engine", "engine"))
    result = step.run("int8-latency", compared.int8, place)
    assert (result.outcome, result.reason) == ("passed", ""), result.checks
    assert result.facts == {"share_of_fp16_at_batch_1": 2.0, "share_of_fp16_at_batch_8": 2.0}
    assert "not 5 % faster on a T4" in outcomes(result)


def test_benchmark(place, monkeypatch):
    kinds, asked = benchmark.KINDS, []

    def timed(files, **options):
        asked.append(options["runners"])
        return Timed(*kinds[:-1], lost=kinds[-1:])

    monkeypatch.setattr(hemf_export, "benchmark", timed)
    found = outcomes(step.run("bench", benchmark.benchmark, place))
    assert {kind for runners in asked for kind in runners} == set(kinds)
    assert {runners[0] for runners in asked} == {"eager"}, "the reference"
    assert found == {**dict.fromkeys((*kinds[:-1], "conditions"), "passed"), kinds[-1]: "can't run"}


def test_graph_forms(place):
    result = step.run("graph-forms", compared.graph_forms, place)
    assert result.reason == ""
    assert set(result.facts["median_ms"]) == {"ours, for a CPU", "ours, for TensorRT-RTX"}
    assert outcomes(result)["built: ours, for a CPU"] == "passed", result.checks
