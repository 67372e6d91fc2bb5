"""From a histogram to the range that int8 covers: what lies outside it is clipped, what lies inside is rounded.

Every method looks for one number, the largest magnitude T that is kept (symmetric), or for a factor by which the whole
range is drawn in (asymmetric).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram

Method = Literal["max", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 0.9999
LEVELS = 127  # of a symmetric int8 value, on each side of zero
_CANDIDATES = 64
_SMALLEST_SHARE = 2.0**-6  # of the largest magnitude: no method clips deeper
_LINEAR_BINS = 2048  # of the histogram that the entropy method compares


def threshold(histogram: Histogram, method: Method) -> float:
    """The largest magnitude that a symmetric int8 range keeps; 0 where all values are zero.

    - max: the largest that was seen.
    - percentile: what 99.99 % of the values don't exceed.
    - mse: the least mean squared error of rounding and clipping together.
    - entropy: the least Kullback-Leibler divergence of the clipped and rounded distribution from the true one
      (Migacz, 8-bit inference with TensorRT, GTC 2017).
    """
    if method not in histogram.memo:
        histogram.memo[method] = _threshold(histogram, method)
    return histogram.memo[method]


def _threshold(histogram: Histogram, method: Method) -> float:
    largest = histogram.largest
    if largest == 0:
        return 0.0
    if method == "max":
        return largest
    if method == "percentile":
        return min(largest, histogram.quantile(PERCENTILE)) or largest
    candidates = largest * np.geomspace(_SMALLEST_SHARE, 1.0, _CANDIDATES)
    centres, counts = histogram.magnitudes()
    if not centres.any():  # a sample of zeros alone, which doesn't tell where to clip
        return largest
    if method == "mse":
        errors = [_squared_error(centres, counts, candidate) for candidate in candidates]
    else:
        linear = _linear(histogram, largest)
        errors = [_divergence(linear, candidate / largest) for candidate in candidates]
    return float(candidates[int(np.argmin(errors))])


def interval(histogram: Histogram, method: Method) -> tuple[float, float]:
    """The interval that an asymmetric 8-bit range keeps; it always holds zero, which must be exact."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low >= high:
        return 0.0, 0.0
    kept = threshold(histogram, method)
    return max(low, -kept), min(high, kept)


def _squared_error(centres: NDArray[np.float64], counts: NDArray[np.int64], kept: float) -> float:
    step = kept / LEVELS
    rounded = (np.round(centres / step) * step - centres) ** 2
    # Where a bin is not much finer than a step, its centre says nothing of the values' rounding: on average step²/12.
    coarse = centres / 128 > step / 4
    inside = np.where(coarse, step**2 / 12, rounded)
    return float((counts * np.where(centres <= kept, inside, (centres - kept) ** 2)).sum())


def _linear(histogram: Histogram, largest: float) -> NDArray[np.float64]:
    """Counts of |value| in equal bins up to the largest: relative bins that are wider are spread over several."""
    centres, counts = histogram.magnitudes()
    positive = centres > 0  # as usual for this method: zeros are exact whatever the range
    centres, counts = centres[positive], counts[positive].astype(np.float64)
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [largest]])
    edges = np.maximum.accumulate(np.minimum(edges, largest))
    return np.diff(np.interp(np.linspace(0, largest, _LINEAR_BINS + 1), edges, cumulated))


def _divergence(linear: NDArray[np.float64], share: float) -> float:
    bins = max(LEVELS + 1, round(share * len(linear)))
    if bins >= len(linear):
        bins = len(linear)
    kept = linear[:bins]
    true = kept.copy()
    true[-1] += linear[bins:].sum()
    # Each of the levels spreads its count evenly over those of its bins that have any.
    level = np.minimum(np.arange(bins) * (LEVELS + 1) // bins, LEVELS)
    filled = kept > 0
    sums = np.bincount(level, kept, LEVELS + 1)
    numbers = np.bincount(level, filled, LEVELS + 1)
    coarse = np.where(filled, (sums / np.maximum(numbers, 1))[level], 0.0)
    if not coarse.sum() or not true.sum():
        return float("inf")
    true, coarse = true / true.sum(), coarse / coarse.sum()
    both = true > 0
    return float((true[both] * np.log(true[both] / np.maximum(coarse[both], 1e-12))).sum())
