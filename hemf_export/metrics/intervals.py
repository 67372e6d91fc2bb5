"""Confidence intervals of shares."""

from __future__ import annotations

from scipy import special

COVERAGE = 0.95


def of_share(count: int, total: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share that was measured as `count` of `total` (Clopper & Pearson 1934).

    Args:
        count: images that have the property.
        total: all images, at least one.
    """
    tail = (1 - COVERAGE) / 2
    low = float(special.betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return low, high
