"""Thresholds on distributions whose best ones are known or can be found by brute force on the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemf_export.calibration.qdq import half_up
from hemf_export.calibration.ranges import METHODS, Histogram, interval, threshold

GAUSSIAN = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
OUTLIER = np.append(GAUSSIAN, np.float32(60.0))


def histogram(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(np.asarray(values, np.float32))
    return made


def rounding_error(values: np.ndarray, kept: float) -> float:
    """Mean squared error of symmetric int8, done on the values themselves."""
    step = kept / 127
    exact = values.astype(np.float64)
    return float(((np.clip(np.round(exact / step), -127, 127) * step - exact) ** 2).mean())


@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 3), (-7, 2)])
def test_a_uniform_distribution_is_not_clipped(method, low, high):
    values = np.random.default_rng(1).uniform(low, high, 100_000).astype(np.float32)
    assert threshold(histogram(values), method) == pytest.approx(np.abs(values).max(), rel=1e-12)


def test_max_keeps_an_outlier_exactly():
    assert threshold(histogram(OUTLIER), "max") == 60.0


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_one_outlier_far_beyond_a_gaussian_is_clipped(method):
    assert 2.5 < threshold(histogram(OUTLIER), method) < 0.45 * 60


def test_percentile_is_the_quantile_of_the_magnitudes():
    exact = np.quantile(np.abs(OUTLIER), 0.9999)
    assert threshold(histogram(OUTLIER), "percentile") == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    "values",
    [
        GAUSSIAN,
        OUTLIER,
        np.random.default_rng(2).laplace(size=200_000).astype(np.float32),
        np.maximum(GAUSSIAN, 0),
        np.random.default_rng(3).standard_t(3, 200_000).astype(np.float32),
    ],
    ids=["gaussian", "outlier", "laplace", "relu", "student"],
)
def test_mse_is_near_the_best_found_by_brute_force(values):
    largest = float(np.abs(values).max())
    best = min(rounding_error(values, kept) for kept in largest * np.linspace(0.02, 1, 120))
    found = rounding_error(values, threshold(histogram(values), "mse"))
    assert found <= 1.04 * best
    # The least that a search can be good for: no worse than keeping everything.
    assert found <= 1.001 * rounding_error(values, largest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [-9, -1, 3, 10])
def test_values_times_a_power_of_two_have_a_threshold_times_it(method, power):
    values, factor = OUTLIER[::7], np.float32(2.0**power)
    expected = threshold(histogram(values), method) * factor
    assert threshold(histogram(values * factor), method) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_signs_do_not_matter(method):
    assert threshold(histogram(OUTLIER), method) == threshold(histogram(-OUTLIER), method)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_alone_and_no_values_at_all_have_none(method):
    for found in (histogram(np.zeros(100)), Histogram(), histogram(np.array([np.nan]))):
        assert threshold(found, method) == 0.0
        assert interval(found, method) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.3, -0.007, 1e5])
def test_one_value_is_kept(method, value):
    for count in (1, 1000):
        kept = threshold(histogram(np.full(count, value)), method)
        assert kept == pytest.approx(abs(value), rel=0.07)
        assert rounding_error(np.full(count, value), kept) < (0.01 * value) ** 2 or method != "mse"


@pytest.mark.parametrize("method", METHODS)
def test_an_extreme_that_a_sample_of_zeros_missed_is_kept(method):
    """Extremes are those of all values, counts those of a sample: here it holds zeros alone."""
    values = np.zeros(1000, np.float32)
    values[3] = 5.0
    found = Histogram()
    found.add(values, at_most=100)
    assert not found.values()[0].any()
    assert threshold(found, method) == 5.0


@given(
    st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=40), st.sampled_from(METHODS)
)
@settings(deadline=None, max_examples=60)
def test_an_interval_holds_zero_and_nothing_beyond_the_values(values, method):
    low, high = interval(histogram(np.array(values)), method)
    assert low <= 0 <= high
    assert min(0, *values) <= low
    assert high <= max(0, *values)
    assert high > low or not any(values)


def test_an_interval_of_one_sign_ends_at_zero():
    assert interval(histogram(np.abs(GAUSSIAN)), "mse")[0] == 0
    assert interval(histogram(-np.abs(GAUSSIAN)), "mse")[1] == 0


@given(st.floats(0, 60_000))
@settings(deadline=None, max_examples=200)
def test_a_scale_is_rounded_up_to_the_next_float16(scale):
    found = half_up(scale)
    assert found >= scale
    assert float(np.float16(found)) == found > 0
    below = float(np.nextafter(np.float16(found), np.float16(0)))
    assert below < scale or below == 0


def test_a_scale_that_float16_holds_stays():
    exact = np.random.default_rng(4).uniform(1e-6, 100, 500).astype(np.float16)
    assert [half_up(float(scale)) for scale in exact] == exact.astype(float).tolist()
