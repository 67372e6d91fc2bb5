"""Pillow's antialiased bilinear resize along one axis as a matrix, so that a graph can compute it.

Pillow resizes an image in two passes, one along each axis. A pixel of a pass is a weighted sum of pixels, rounded half
up; its weights form a triangle scaled to the pixel's footprint in the source, and are multiples of 2⁻²². The weights
here are equal (source: Pillow's `Resample.c`, `precompute_coeffs` and `normalize_coeffs_8bpc`), so that a product with
the matrix in float64, rounded half up, is Pillow's pixel. Needs NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 22  # weights are multiples of 2⁻²²


def matrix(
    source: int, target: int, first: int = 0, last: int | None = None, *, box: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Compute the weights of a resize from `source` to `target` pixels.

    Args:
        source: pixels along the axis before the resize.
        target: pixels after it.
        first: first target pixel to keep.
        last: last target pixel to keep, inclusive; None for all.
        box: start and end of the part of the source to resize, in pixels, rounded to float32 as Pillow does; None for
            all.

    Returns:
        (kept, source); each row sums to 1, but for the rounding of its weights.

    Raises:
        ValueError: lengths below 1, or kept pixels out of range.
    """
    last = target - 1 if last is None else last
    if min(source, target) < 1 or not 0 <= first <= last < target:
        raise ValueError(f"pixels {first} to {last} of {target}, made of {source}")
    begin, end = (np.float32(place) for place in box or (0, source))
    scale = float(end - begin) / target
    stretch = max(scale, 1.0)  # half of the triangle's base; enlarging takes the two nearest pixels
    centers = float(begin) + (np.arange(first, last + 1) + 0.5) * scale
    lowest = np.maximum((centers - stretch + 0.5).astype(np.int64), 0)
    beyond = np.minimum((centers + stretch + 0.5).astype(np.int64), source)
    places = np.arange(source)
    weights = np.maximum(1 - np.abs((places - centers[:, None] + 0.5) * (1 / stretch)), 0)
    weights[(places < lowest[:, None]) | (places >= beyond[:, None])] = 0
    weights /= weights.sum(1, keepdims=True)
    return np.floor(weights * 2**BITS + 0.5) / 2**BITS


@dataclass(frozen=True)
class Resampling:
    """A resize and crop as two matrices.

    Args:
        rows: (kept rows, height), multiplied from the left.
        columns: (kept columns, width), whose transpose is multiplied from the right.
        rows_first: whether the rows are the first pass; the order matters, as each pass is rounded.
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    rows_first: bool

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, channels) → (kept rows, kept columns, channels): Pillow's pixels, by products in float64."""
        passes = (self._down, self._across) if self.rows_first else (self._across, self._down)
        levels = pixels.astype(np.float64)
        for one in passes:
            levels = np.floor(one(levels) + 0.5)
        return levels.astype(np.uint8)

    def _down(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot(self.rows, levels, 1)

    def _across(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.moveaxis(np.tensordot(self.columns, levels, (1, 1)), 0, 1)


def rows_come_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow resizes the rows before the columns; sizes are (height, width), with a box the whole image's.

    Pillow before 13 begins with the columns, but for images more than 100 times as high as wide; 13.0 begins with the
    rows where more than twice as many of them are removed. (Found by experiment: it isn't documented.)
    """
    fewer_rows, fewer_columns = (before - after for before, after in zip(source, target, strict=True))
    return fewer_rows > 0 and fewer_rows > 2 * fewer_columns
