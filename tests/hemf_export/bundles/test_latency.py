"""When a model is too slow: measured against a clock that these tests move, never against this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hemf_export.bundles import latency
from hemf_export.bundles.latency import Known, Reference

BENCH = {
    "conditions": {"cpu": {"model": "CPU", "threads": 2}, "gpu": {"name": "GPU"}},
    "timings": [
        {"name": f"{kind}, {file}", "sha256": file, "batch": batch, "transfers": transfers, "latency_ms": {"p50": p50}}
        for kind, file, batch, transfers, p50 in (
            ("ort-cpu", "a.onnx", 8, None, 70.0), ("ort-cpu", "a.onnx", 1, None, 10.0),
            ("ort-cuda", "a.onnx", 1, False, 1.0), ("ort-cuda", "a.onnx", 1, True, 2.0),
            ("ort-cpu", "b.onnx", 1, None, 5.0), ("engine", "b.engine", 1, False, 0.5),
            ("engine", "b.engine", 1, True, 1.0),
        )
    ],
}  # fmt: skip


class Machine:
    """A clock, and work that moves it: `busy` times as long in each try as it would take alone."""

    def __init__(self, *busy: float) -> None:
        self.now, self.calls, self.busy = 0.0, 0, busy or (1.0,)

    def __call__(self) -> float:
        return self.now

    def work(self, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += milliseconds / 1000 * self.busy[self.calls % len(self.busy)]
            self.calls += 1

        return run


def measured(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, own: float, other: float | None, bound: float | None = None,
    here: str = "CPU",
) -> latency.Latency:  # fmt: skip
    """A model that took 10 ms there, beside one that took 20 ms."""
    monkeypatch.setattr(latency, "_clock", machine)
    figure = Known("ort-cpu, a.onnx", 1, 10.0, 2, "CPU", here, Reference("ort-cpu, b.onnx", "b", 20.0))
    return latency.measure(machine.work(own), figure, bound, None if other is None else machine.work(other))


@pytest.mark.parametrize(
    ("own", "other", "passed", "why"),
    [
        (10, 20, True, "as in the benchmark"),
        (500, 1000, True, "all is slow here: the machine is busy"),
        (19, 10, True, "its ratio has grown, but it isn't slow: the other is quicker here"),
        (19, 20, True, "within the bound"),
        (50, 20, False, "it alone is slow"),
        (500, 100, False, "slow, and behind the other"),
    ],
)
def test_a_model_is_too_slow_where_it_is_slow_and_behind_its_reference(own, other, passed, why, monkeypatch):
    result = measured(monkeypatch, Machine(), own, other)
    assert result.passed == passed, why
    assert result.p50_ms == pytest.approx(own)
    assert result.ratio_growth == pytest.approx(100 * (own / other / 0.5 - 1))


def test_a_machine_that_comes_and_goes_fails_nothing(monkeypatch):
    """Bursts of a hundred times as long, of odd length, so that they meet both models in turn."""
    result = measured(monkeypatch, Machine(*[100.0] * 31, *[1.0] * 30), 10, 20)
    assert result.passed


def test_it_is_tried_again_and_the_best_try_counts(monkeypatch):
    machine = Machine()
    slow, quick = machine.work(100), machine.work(10)
    calls = 0

    def recovers() -> None:
        nonlocal calls
        calls += 1
        (slow if calls < 40 else quick)()

    monkeypatch.setattr(latency, "_clock", machine)
    figure = Known("ort-cpu, a.onnx", 1, 10.0, 2, "CPU", "CPU", Reference("ort-cpu, b.onnx", "b", 20.0))
    assert latency.measure(recovers, figure, None, machine.work(20)).passed


@pytest.mark.parametrize(("other", "here"), [(None, "CPU"), (20, "Another CPU")])
def test_without_a_reference_of_this_machine_there_is_no_verdict(other, here, monkeypatch):
    result = measured(monkeypatch, Machine(), 1000, other, here=here)
    assert (result.bound, result.ratio_growth, result.passed) == (None, None, True)
    assert result.to_dict()["reference"] is None


@pytest.mark.parametrize(("bound", "passed"), [(899, False), (901, True)])
def test_a_bound_that_is_asked_for_is_on_the_latency_itself(bound, passed, monkeypatch):
    for here in ("CPU", "Another CPU"):
        result = measured(monkeypatch, Machine(), 100, 20, bound, here)
        assert (result.passed, result.ratio_growth) == (passed, None)


def test_the_reference_ran_on_the_same_processor_at_the_same_batch():
    files = {"a.onnx", "b.onnx", "b.engine"}

    def of(sha256: str, *, engine: bool = False, bundle: set[str] = files) -> Known:
        figure = latency.known(BENCH, sha256, engine=engine, gpu="GPU", others=bundle - {sha256})
        assert figure is not None
        return figure

    assert (of("a.onnx").batch, of("a.onnx").p50_ms, of("a.onnx").reference) == (
        1, 10.0, Reference("ort-cpu, b.onnx", "b.onnx", 5.0)
    )  # fmt: skip
    assert of("b.onnx").reference == Reference("ort-cpu, a.onnx", "a.onnx", 10.0)
    assert of("b.onnx", bundle={"b.onnx", "b.engine"}).reference is None, "what isn't in the bundle can't be run"
    engine = of("b.engine", engine=True)
    assert engine.p50_ms == 1.0, "with the copies to the GPU and back, as it's timed here"
    assert engine.reference == Reference("ort-cuda, a.onnx", "a.onnx", 2.0)
    assert engine.reference.kind == "ort-cuda"
    assert engine.same_kind
    assert latency.known(BENCH, "c.onnx", engine=False, gpu=None) is None
    assert latency.known(None, "a.onnx", engine=False, gpu=None) is None
