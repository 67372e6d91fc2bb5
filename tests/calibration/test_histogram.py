"""Histograms against numpy on the same values: extremes exact, everything else to a bin (1/128 of a value)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hemf_export.calibration.ranges import Histogram

BIN = 1 / 128
SMALLEST_COUNTED = 2.0**-133  # below, a value is in the bin of zero

floats = arrays.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def histogram(*parts: np.ndarray, at_most: int | None = None) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(np.asarray(part, np.float32), at_most=at_most)
    return made


def spread(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Values of both signs whose magnitudes are evenly spread over octaves 2**low to 2**high."""
    generator = np.random.default_rng(seed)
    return (2.0 ** generator.uniform(low, high, count) * generator.choice([-1.0, 1.0], count)).astype(np.float32)


@given(floats, floats)
@settings(deadline=None, max_examples=60)
def test_extremes_and_total_are_exact_over_several_arrays(first, second):
    found, both = histogram(first, second), np.concatenate([first, second])
    assert (found.low, found.high) == (both.min(), both.max())
    assert found.largest == np.abs(both).max()
    assert found.total == both.size
    assert found.not_finite == 0


@given(floats)
@settings(deadline=None, max_examples=60)
def test_every_value_lies_within_a_bin_of_a_centre(values):
    centres, counts = histogram(values).values()
    rebuilt = np.repeat(centres, counts)
    exact = np.sort(values.astype(np.float64))
    assert np.abs(rebuilt - exact).max(initial=0, where=np.abs(exact) < 1e-30) < 1e-30
    normal = np.abs(exact) > 1e-30
    np.testing.assert_allclose(rebuilt[normal], exact[normal], rtol=BIN / 2)


def test_the_order_of_the_arrays_does_not_matter_and_the_memory_is_the_same():
    parts = [spread(1000, -10, 10, seed) for seed in range(20)]
    one, other = histogram(*parts), histogram(*reversed(parts))
    assert np.array_equal(one.counts, other.counts)
    assert one.counts.nbytes == histogram(parts[0]).counts.nbytes
    assert one.counts.nbytes < 1 << 20


@pytest.mark.parametrize(("low", "high"), [(-32, -18), (-24, 3), (-10, 15), (8, 20), (-40, 30)])
def test_shares_lost_to_float16_are_those_of_the_conversion_itself(low, high):
    values = np.concatenate([spread(20_000, low, high), np.zeros(777, np.float32)])
    found = histogram(values)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    assert found.flushed() == pytest.approx(((half == 0) & (values != 0)).sum() / (values != 0).sum(), abs=1e-9)


@pytest.mark.parametrize(
    ("value", "flushed"),
    [(2.0**-25 * 0.999, 1), (2.0**-25 * 1.01, 0), (65536, 0), (0.0, 0)],
)
def test_single_values_on_either_side_of_the_borders(value, flushed):
    assert histogram([value]).flushed() == flushed


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_are_those_of_the_magnitudes(share):
    values = np.random.default_rng(1).standard_normal(30_000).astype(np.float32)
    exact = np.quantile(np.abs(values), share, method="inverted_cdf")
    assert histogram(values).quantile(share) == pytest.approx(exact, rel=BIN)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_root_mean_square_counts_zeros_among_the_values(scale):
    values = np.random.default_rng(2).standard_normal(30_000).astype(np.float32) * np.float32(scale)
    values[:15_000] = 0
    exact = np.sqrt((values.astype(np.float64) ** 2).mean())
    assert histogram(values).root_mean_square() == pytest.approx(exact, rel=BIN)


def test_the_smallest_magnitude_is_exact_for_positive_values_and_to_a_bin_for_others():
    positive = np.abs(spread(5000, -30, 5))
    assert histogram(positive).smallest == positive.min()
    both = np.concatenate([spread(5000, -30, 5), [0.0]])
    assert histogram(both).smallest == pytest.approx(np.abs(both[both != 0]).min(), rel=BIN)
    assert histogram([0.0, -0.0]).smallest == np.inf


def test_values_that_are_not_finite_are_counted_apart_and_leave_the_figures_alone():
    values = spread(3000, -5, 5)
    bad = np.array([np.nan, np.inf, -np.inf, np.inf], np.float32)
    found, clean = histogram(np.concatenate([values, bad])), histogram(values)
    assert found.not_finite == 4
    assert (found.low, found.high, found.largest) == (clean.low, clean.high, clean.largest)
    assert found.root_mean_square() == clean.root_mean_square()
    assert found.quantile(1.0) == clean.quantile(1.0)


def test_nothing_and_nothing_finite_give_zeros():
    for found, count in ((histogram([]), 0), (histogram([np.nan, np.inf]), 2)):
        assert (found.largest, found.quantile(0.5), found.root_mean_square(), found.flushed()) == (0, 0, 0, 0)
        assert found.smallest == np.inf
        assert found.not_finite == count


@given(st.integers(1, 40_000), st.integers(1, 3000), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_sampling_keeps_to_its_limit_and_the_extremes_exact(size, at_most, seed):
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    found = histogram(values, at_most=at_most)
    assert (found.low, found.high) == (values.min(), values.max())
    assert 1 <= found.total <= max(at_most, 1)
    assert size > at_most or found.total == size


def test_quantiles_of_a_sample_are_close_to_those_of_all():
    values = np.random.default_rng(3).standard_normal(400_000).astype(np.float32)
    found, exact = histogram(values, at_most=30_000), histogram(values)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert found.quantile(share) == pytest.approx(exact.quantile(share), rel=0.06)


@pytest.mark.parametrize("at_most", [3000, 10_000, 20_000, 50_000])
@pytest.mark.parametrize("channels", [32, 40, 48, 64, 96, 112, 160, 192, 224, 320, 384, 448, 640, 768])
def test_a_sample_meets_every_channel(channels, at_most):
    """Each channel has one value of its own; 14 × 14 pixels of four images, channels last."""
    own = (1 + np.arange(channels, dtype=np.float32)) * np.float32(4.0) ** -6
    exact = histogram(own)
    found = histogram(np.tile(own, (4 * 14 * 14, 1)), at_most=at_most)
    assert np.array_equal(found.counts > 0, exact.counts > 0)
    shares = found.counts[exact.counts > 0] / found.total
    np.testing.assert_allclose(shares, exact.counts[exact.counts > 0] / channels, rtol=0.6)
