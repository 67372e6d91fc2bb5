"""Median of successive measurements, with a prediction interval for the median of another run.

Successive rounds of a benchmark are correlated: other processes come and go, clocks change. Resampled one by one, they
would count as more independent rounds than they are. So they are resampled in blocks as long as the correlation
(circular block bootstrap, Politis and Romano 1992), and the interval is widened by Student's t for few blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
COVERAGE = 0.95
# Variation of the ratio of two runners between processes, which a single run doesn't show: placement of memory, choice
# of cores. Half of its 95 % interval; see docs/benchmarks.md.
BETWEEN_RUNS = 0.02
_LEAST_BLOCKS = 5
_WINDOW = 4  # correlation times after which the sum is truncated (Sokal's rule)


@dataclass(frozen=True)
class Interval:
    """A median, and an interval that has the median of another such run with probability `COVERAGE`.

    As both runs vary, it is wider than a confidence interval of the median by a factor of √2. It doesn't include
    variation between processes: see `of_ratio`.
    """

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Longer side of the interval, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median

    @property
    def inverse(self) -> Interval:
        """The interval of one over the value: a speed-up, of a ratio of latencies."""
        return Interval(1 / self.median, 1 / self.high, 1 / self.low)

    def to_dict(self) -> dict[str, float]:
        """Plain types, for JSON."""
        return dict(vars(self))


def of_median(values: NDArray[np.float64]) -> Interval:
    """Compute the median of positive `values`, in the order of measurement, with its interval.

    The interval is widened on a logarithmic scale, which keeps it above 0. The bootstrap is seeded: equal values give
    equal intervals.
    """
    from scipy.special import ndtri, stdtrit

    count, length = len(values), block_length(values)
    generator = np.random.default_rng(0)
    starts = generator.integers(0, count, (RESAMPLES, math.ceil(count / length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % count).reshape(RESAMPLES, -1)[:, :count]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(np.median(values[drawn], axis=1), (tail, 1 - tail)).tolist()
    middle = float(np.median(values))
    few = stdtrit(max(1.0, count / length - 1), 1 - tail) / ndtri(1 - tail)
    wider = math.sqrt(2) * float(few)
    return Interval(middle, middle * min(1.0, low / middle) ** wider, middle * max(1.0, high / middle) ** wider)


def of_ratio(values: NDArray[np.float64]) -> Interval:
    """Compute `of_median` of ratios measured round by round, with `BETWEEN_RUNS` added as an independent variation."""
    within = of_median(values)
    down, up = (
        math.exp(math.hypot(math.log(end / within.median), math.log1p(BETWEEN_RUNS)))
        for end in (within.low, within.high)
    )
    return Interval(within.median, within.median / down, within.median * up)


def block_length(values: NDArray[np.float64]) -> int:
    """Length of the bootstrap's blocks: twice the correlation time, at least the cube root of the count."""
    count = len(values)
    longest = max(1, count // _LEAST_BLOCKS)
    return min(max(round(count ** (1 / 3)), math.ceil(2 * correlation_time(values))), longest)


def correlation_time(values: NDArray[np.float64]) -> float:
    """Integrated autocorrelation time of the ranks: 1 + 2 Σ of the autocorrelations, at least 1.

    Ranks, because a single outlier would dominate the correlations of the values.
    """
    count = len(values)
    ranks = np.empty(count)
    ranks[np.argsort(values, kind="stable")] = np.arange(count)
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    if power == 0 or float(np.ptp(values)) == 0:
        return 1.0
    time = 1.0
    for lag in range(1, max(1, count // 3)):
        time += 2 * float(ranks[:-lag] @ ranks[lag:]) / power
        if lag >= _WINDOW * max(time, 1.0):
            break
    return max(time, 1.0)
