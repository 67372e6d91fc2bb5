"""A distribution of float32 values in bounded memory, exact in one pass without knowing their range.

A value is counted by its upper 16 bits: sign, exponent and the first 7 bits of its fraction (its bfloat16, cut off).
So bins are relative, 128 to an octave, from the smallest to the largest float; the borders that float16 has, powers of
two, are borders of bins.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CODES = 1 << 16
_SIGN = 1 << 15
_OCTAVE = 128  # codes that share an exponent
_BIAS = 127
_NOT_FINITE = 255 * _OCTAVE  # codes of infinity and NaN start here
_FLOAT16_ZERO = -25  # values below 2**-25 round to zero in float16
_FLOAT16_OVERFLOW = 16  # values from 2**16 on are infinite (those from 65,520 on, exactly)


class Histogram:
    """Counts of values by sign and magnitude.

    Args:
        counts: by code; zeros by default.
        low: smallest finite value seen.
        high: largest.
    """

    def __init__(
        self, counts: NDArray[np.int64] | None = None, low: float = float("inf"), high: float = float("-inf")
    ) -> None:
        self.counts = np.zeros(CODES, np.int64) if counts is None else counts
        self.low, self.high = low, high
        self.memo: dict[str, float] = {}  # what was worked out of it; forgotten when it changes

    def add(self, values: NDArray[np.float32], *, at_most: int | None = None) -> None:
        """Take in a float32 array: its extremes exactly, and the distribution of its elements.

        With `at_most`, that is counted on so many elements, evenly spaced: enough for its shape, in a third of the
        time where arrays are large.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        self.memo.clear()
        sample = (
            flat if at_most is None or flat.size <= at_most else flat[:: _stride(flat.size // at_most + 1, flat.size)]
        )
        self.counts += np.bincount((sample.view(np.uint32) >> 16).astype(np.uint16), minlength=CODES)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    @property
    def not_finite(self) -> int:
        """How many were infinite or NaN."""
        return int(self.counts[_NOT_FINITE:_SIGN].sum() + self.counts[_SIGN + _NOT_FINITE :].sum())

    @property
    def largest(self) -> float:
        """The largest magnitude of a finite value; 0 where there is none."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def smallest(self) -> float:
        """The smallest magnitude above zero that was counted, to a bin; infinite where there is none."""
        if 0 < self.low <= self.high:  # all positive: known exactly
            return self.low
        codes = np.flatnonzero(self._magnitudes()[1:_NOT_FINITE])
        return float(_centres(codes[:1] + 1)[0]) if len(codes) else float("inf")

    def flushed(self) -> float:
        """Share of the values, zeros apart, that float16 would turn to zero."""
        nonzero = self.total - self._zeros()
        below = self._magnitudes()[1 : (_BIAS + _FLOAT16_ZERO) * _OCTAVE].sum() if nonzero else 0
        return float(below / nonzero) if nonzero else 0.0

    def overflowed(self) -> float:
        """Share of the values that float16 could not hold."""
        above = self._magnitudes()[(_BIAS + _FLOAT16_OVERFLOW) * _OCTAVE :].sum()
        return float(above / self.total) if self.total else 0.0

    def magnitudes(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Centres of the bins of |value| that have any, ascending, and their counts; zero first, if there are zeros."""
        counts = self._magnitudes()[:_NOT_FINITE]
        codes = np.flatnonzero(counts)
        return _centres(codes), counts[codes]

    def values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Centres of the bins of the values that have any, ascending, and their counts."""
        codes = np.flatnonzero(self.counts)
        codes = codes[codes % _SIGN < _NOT_FINITE]
        centres = np.where(codes >= _SIGN, -1.0, 1.0) * _centres(codes % _SIGN)
        order = np.argsort(centres, kind="stable")
        return centres[order], self.counts[codes[order]]

    def quantile(self, share: float) -> float:
        """The magnitude that this share of the values does not exceed, to a bin."""
        centres, counts = self.magnitudes()
        if not len(centres):
            return 0.0
        reached = np.searchsorted(np.cumsum(counts), share * counts.sum())
        return float(centres[min(int(reached), len(centres) - 1)])

    def root_mean_square(self) -> float:
        """Of all finite values, zeros among them."""
        centres, counts = self.magnitudes()
        return float(np.sqrt((counts * centres**2).sum() / counts.sum())) if len(counts) else 0.0

    def _magnitudes(self) -> NDArray[np.int64]:
        return self.counts[:_SIGN] + self.counts[_SIGN:]

    def _zeros(self) -> int:
        return int(self.counts[0] + self.counts[_SIGN])


def _stride(least: int, size: int) -> int:
    """The next number that shares no factor with an array's size, so none with its channels or rows: it meets all."""
    while math.gcd(least, size) > 1:
        least += 1
    return least


def _centres(codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """The middle of each bin of magnitudes; of the first one, zero itself."""
    lower = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    upper = (((codes.astype(np.uint32) + 1) << 16) - 1).view(np.float32).astype(np.float64)
    return np.where(codes == 0, 0.0, (lower + upper) / 2)
