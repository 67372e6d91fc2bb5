"""Intervals hold for values that follow each other, also where neighbours are alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hemf_export.timing import intervals


def series(seed: int, count: int, memory: float) -> np.ndarray:
    """Around 1, each value `memory` of the one before and noise."""
    generator = np.random.default_rng(seed)
    values = [float(generator.standard_normal()) / np.sqrt(1 - memory**2)]
    for _ in range(count - 1):
        values.append(memory * values[-1] + float(generator.standard_normal()))
    return np.exp(0.02 * np.array(values))


def coverage(count: int, memory: float) -> float:
    """How often the interval of a run holds the median of the next."""
    medians = [intervals.of_median(series(seed, count, memory)) for seed in range(100)]
    inside = [one.low <= other.median <= one.high for one, other in itertools.pairwise(medians)]
    return float(np.mean(inside))


@pytest.mark.parametrize(
    ("count", "memory", "least"), [(10, 0.0, 0.86), (60, 0.0, 0.9), (60, 0.5, 0.86), (200, 0.8, 0.84)]
)
def test_another_run_falls_inside(count, memory, least):
    assert coverage(count, memory) >= least


def test_values_drawn_one_by_one_would_not_do(monkeypatch):
    monkeypatch.setattr(intervals, "block_length", lambda values: 1)
    assert coverage(200, 0.8) < 0.7


def test_blocks_grow_with_the_memory_of_the_values():
    lengths = [intervals.block_length(series(1, 300, memory)) for memory in (0.0, 0.8, 0.95)]
    assert lengths[0] < lengths[1] < lengths[2]
    assert intervals.block_length(series(1, 10, 0.99)) == 2, "five blocks at the least"


def test_an_interval_scales_with_its_values_and_is_the_same_each_time():
    values = series(2, 50, 0.3)
    one, twice = intervals.of_median(values), intervals.of_median(2 * values)
    assert twice.low == pytest.approx(2 * one.low)
    assert twice.high == pytest.approx(2 * one.high)
    assert one == intervals.of_median(values)
    assert one.low < one.median == np.median(values) < one.high


def test_equal_values_leave_nothing_open():
    found = intervals.of_median(np.full(12, 3.0))
    assert (found.low, found.median, found.high) == (3.0, 3.0, 3.0)


def test_a_wild_value_leaves_the_interval_above_0():
    found = intervals.of_median(np.array([1.0, 900, 1, 800, 1, 1, 900, 1, 1, 700]))
    assert 0 < found.low <= 1


def test_a_ratio_is_never_known_better_than_runs_agree():
    equal = intervals.of_ratio(np.full(12, 0.5))
    wide = 1 + intervals.BETWEEN_RUNS
    assert (equal.low, equal.median, equal.high) == pytest.approx((0.5 / wide, 0.5, 0.5 * wide))
    values = series(3, 40, 0.3)
    within, whole = intervals.of_median(values), intervals.of_ratio(values)
    assert whole.median == within.median
    for end, own in ((whole.low, within.low), (whole.high, within.high)):
        chance = np.log(own / within.median) ** 2 + np.log(wide) ** 2
        assert np.log(end / whole.median) ** 2 == pytest.approx(chance)
    assert whole.low < within.low < within.high < whole.high
