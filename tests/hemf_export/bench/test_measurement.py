"""Measuring: interleaved, only what computes the reference's logits, until it is stable, and honest about chance."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from hemf_export.files.errors import CheckFailedError, HemfError
from hemf_export.timing import intervals, measurement
from hemf_export.timing.measurement import measure
from tests.hemf_export.bench.fake_workloads import PIXELS, Clock, FakeWorkload, contender, drifting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(measurement, "time", fake)
    return fake


def steady(clock: Clock, seconds: float, value: float = 0.0) -> FakeWorkload:
    return FakeWorkload(clock, lambda: seconds, lambda: value)


def rough(clock: Clock, seconds: float) -> FakeWorkload:
    """Each run takes between one and three times as long: no median is stable soon."""
    generator = np.random.default_rng(0)
    return FakeWorkload(clock, lambda: seconds * generator.uniform(1, 3), lambda: 0.0)


def test_latencies_and_ratios_are_those_of_the_runners(clock):
    slow, quick = steady(clock, 0.02), steady(clock, 0.01)
    (first, second), not_run = measure([contender(slow, "a"), contender(quick, "b")], PIXELS, seconds=60)
    assert first.median_ms == pytest.approx(20)
    assert first.images_per_second == pytest.approx(50)
    wide = 1 + intervals.BETWEEN_RUNS
    assert (second.ratio.median, second.ratio.low, second.ratio.high) == pytest.approx((0.5, 0.5 / wide, 0.5 * wide))
    assert not_run == []


def test_what_is_stable_ends_at_once_and_what_is_not_when_time_is_up(clock):
    (timing,), _ = measure([contender(steady(clock, 0.02))], PIXELS, seconds=60)
    assert timing.stable
    assert len(timing.latencies_ms) == measurement.ENOUGH_ROUNDS
    (timing,), _ = measure([contender(rough(clock, 0.02))], PIXELS, seconds=3)
    assert not timing.stable
    assert 3000 <= sum(timing.latencies_ms) < 3100


def test_every_round_runs_each_once_and_none_always_follows_the_same(clock):
    works = [rough(clock, 0.01) for _ in range(3)]
    timings, _ = measure([contender(work, str(number)) for number, work in enumerate(works)], PIXELS, seconds=6)
    rounds = len(timings[0].latencies_ms)
    calls = [work.calls[-rounds:] for work in works]
    for one, following in itertools.pairwise(range(rounds)):
        assert max(own[one] for own in calls) < min(own[following] for own in calls), "round after round"
    orders = {tuple(np.argsort([own[one] for own in calls])) for one in range(rounds)}
    assert len(orders) == 6


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_what_is_fast_and_wrong_is_not_timed_and_the_rest_is(clock, value):
    wrong = steady(clock, 0.001, value)
    found, not_run = measure(
        [contender(steady(clock, 0.01), "right"), contender(wrong, "wrong"), contender(steady(clock, 0.01), "also")],
        PIXELS, seconds=1,
    )  # fmt: skip
    assert [timing.name for timing in found] == ["right", "also"]
    assert [(missing.name, missing.failed) for missing in not_run] == [("wrong", True)]
    assert len(wrong.calls) == 1


def test_a_reference_that_is_not_finite_proves_nothing_about_another_like_it(clock):
    """NaN on both sides is not equal."""
    with pytest.raises(CheckFailedError, match=r"first, .* not finite"):
        measure(
            [contender(steady(clock, 0.01, np.nan), "first"), contender(steady(clock, 0.01, np.nan))], PIXELS, seconds=1
        )


def test_logits_that_go_wrong_while_timed_take_the_times_with_them(clock):
    late = FakeWorkload(clock, lambda: 0.01, lambda: 1.0 if len(late.calls) > 40 else 0.0)
    found, not_run = measure([contender(steady(clock, 0.01), "first"), contender(late, "late")], PIXELS, seconds=1)
    assert [timing.name for timing in found] == ["first"]
    assert not_run[0].failed
    assert "After the timing" in not_run[0].reason


def test_a_runner_that_can_not_take_the_batch_is_listed_with_the_reason(clock):
    class Small(FakeWorkload):
        def run(self) -> None:
            raise HemfError("The GPU's memory is too small for this batch.")

    small = Small(clock, lambda: 0, lambda: 0)
    found, not_run = measure([contender(steady(clock, 0.01), "first"), contender(small, "small")], PIXELS, seconds=1)
    assert len(found) == 1
    assert (not_run[0].reason, not_run[0].failed) == ("The GPU's memory is too small for this batch.", False)


def test_percentiles_need_enough_rounds(clock):
    for seconds, rounds, expected in ((0.1, 10, [True, True, False, False]), (60, 100, [True] * 4)):
        (timing,), _ = measure([contender(steady(clock, 0.02))], PIXELS, seconds=seconds)
        shown = [timing.percentile(share) is not None for share in measurement.PERCENTILES]
        assert (len(timing.latencies_ms), shown) == (rounds, expected)


def test_sleeping_threads_are_seen_in_the_percentiles():
    """On the real clock, which can't make a sleep shorter: every tenth run waits for a thread that sleeps."""

    class Sleepy:
        def __init__(self) -> None:
            self.numbers = itertools.count()

        def run(self) -> None:
            if next(self.numbers) % 10 == 0:
                sleeper = threading.Thread(target=time.sleep, args=(0.03,))
                sleeper.start()
                sleeper.join()
            else:
                time.sleep(0.001)

        def logits(self) -> np.ndarray:
            return np.zeros((1, 2), np.float32)

    (timing,), _ = measure([contender(Sleepy())], PIXELS, seconds=2)
    assert timing.percentile(50) < timing.percentile(95), "nine of ten don't wait"
    assert timing.percentile(95) > 30


def a_against_a(clock: Clock, seed: int, rounds_of: float = 4.0):
    """The ratio of a runner to itself, on a machine that drifts."""
    durations = drifting(seed)(clock)
    works = [FakeWorkload(clock, durations, lambda: 0.0) for _ in range(2)]
    _, ratio = measure([contender(works[0], "a"), contender(works[1], "a again")], PIXELS, seconds=rounds_of)[0]
    return ratio.ratio


def test_the_same_runner_twice_is_1_within_its_interval_and_so_is_another_run(clock, monkeypatch):
    """Two runs on one machine: each ratio is inside the other's interval in at least 95 of 100, here of 60 pairs."""
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)
    monkeypatch.setattr(measurement, "_stable", lambda latencies: False)
    monkeypatch.setattr(intervals, "BETWEEN_RUNS", 0.0)  # one process here
    found = [a_against_a(clock, seed, 1.0) for seed in range(60)]
    assert all(ratio.median != 1.0 for ratio in found), "chance has its part in it"
    assert sum(ratio.low <= 1.0 <= ratio.high for ratio in found) >= 57
    inside = [one.low <= other.median <= one.high for one, other in itertools.pairwise(found)]
    assert sum(inside) >= 54
    assert np.median([ratio.half_width for ratio in found]) < 0.03, "and not for being wide"
