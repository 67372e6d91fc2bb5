"""Pillow's antialiased bilinear resize along one axis as a matrix, so that a graph can compute it.

Pillow resizes an image in two passes, one along each axis. A pixel of a pass is a weighted sum of pixels, rounded half
up; its weights are a triangle as wide as the pixel itself is in the source, and integers of
2⁻²². They are the same here (source: Pillow's `Resample.c`, `precompute_coeffs` and `normalize_coeffs_8bpc`), so that a
product with the matrix in float64, rounded half up, is Pillow's pixel. Knows NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 22  # weights are integers of 2⁻²²


def matrix(
    source: int, target: int, first: int = 0, last: int | None = None, *, box: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """The weights with which `target` pixels are made of `source`.

    Args:
        source: pixels along the axis.
        target: pixels to make of them.
        first: of those, the first that is kept.
        last: the last that is kept, itself included; None for all up to the end.
        box: what of the source is resized, from and to, in pixels; rounded to float32, as Pillow does. None for all.

    Returns:
        (kept, source); a row's sum is 1, up to the rounding of its weights.

    Raises:
        ValueError: lengths below 1, or pixels kept that there aren't.
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
    """A resize, and what of it is kept, as two matrices.

    Args:
        rows: (kept rows, height), multiplied from the left.
        columns: (kept columns, width), whose transpose is multiplied from the right.
        rows_first: whether that is the first pass. As each pass is rounded, it matters.
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
    """Whether Pillow makes the rows before the columns; sizes are (height, width), of a box the whole image's.

    Older ones than 13 begin with the columns, but for images that are more than 100 times as high as wide; 13.0 begins
    with the rows where it loses more than twice as many of them. (Found by trying: its documentation is silent.)
    """
    fewer_rows, fewer_columns = (before - after for before, after in zip(source, target, strict=True))
    return fewer_rows > 0 and fewer_rows > 2 * fewer_columns
