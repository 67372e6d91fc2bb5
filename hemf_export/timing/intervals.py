"""The median of measurements that follow each other, with an interval that the next such run's median falls in.

Neighbouring rounds of a benchmark are alike: another process comes and goes, a clock sinks. Drawn one by one, they
would pretend to be more rounds than they are. So they are drawn in blocks as long as their correlation lasts (circular
block bootstrap, Politis and Romano 1992), and what remains of few blocks is widened as Student's t asks for. Knows
nothing of what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
COVERAGE = 0.95
# What the ratio of two runners moves by from one process to the next, beyond what one run shows: where memory lies and
# which cores it gets. Half of its own 95 % interval; docs/benchmarks.md says what it stands for.
BETWEEN_RUNS = 0.02
_LEAST_BLOCKS = 5
_WINDOW = 4  # correlation times after which correlations are noise (Sokal's rule)


@dataclass(frozen=True)
class Interval:
    """A median, and where the median of another run of the same kind falls, with a probability of `COVERAGE`.

    A median that were known exactly would have an interval narrower by the square root of two: another run has chance
    of its own. What differs between processes one run doesn't show: see `of_ratio`.
    """

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The longer side, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median

    def to_dict(self) -> dict[str, float]:
        """Plain types, for JSON."""
        return dict(vars(self))


def of_median(values: NDArray[np.float64]) -> Interval:
    """The median of `values`, all above 0, in the order in which they were measured, with its interval.

    It is widened as a factor, which keeps it above 0. The same values give the same interval: the draws are seeded.
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
    """`of_median` of ratios measured round by round, and `BETWEEN_RUNS` with it: both are chance, and independent."""
    within = of_median(values)
    down, up = (
        math.exp(math.hypot(math.log(end / within.median), math.log1p(BETWEEN_RUNS)))
        for end in (within.low, within.high)
    )
    return Interval(within.median, within.median / down, within.median * up)


def block_length(values: NDArray[np.float64]) -> int:
    """Neighbours to draw together: twice the correlation time of the ranks, and at least the cube root of the count."""
    count = len(values)
    longest = max(1, count // _LEAST_BLOCKS)
    return min(max(round(count ** (1 / 3)), math.ceil(2 * correlation_time(values))), longest)


def correlation_time(values: NDArray[np.float64]) -> float:
    """How many neighbours tell as much as one independent value: 1 + 2 Σ of the correlations of the ranks, at least 1.

    Ranks, because one value of a thousand times the others would hide everything else.
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
