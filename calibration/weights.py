"""Weights in int8: a step for each output channel, and each rounded so that its product's output changes least.

To round every weight to the nearest step lets errors add up where inputs move together, as the pixels of a patch do:
the sums shift. Instead inputs are taken one after the other, and what rounding did is made good by the weights that are
still to be rounded, as far as the inputs' second moments allow (Frantar et al., GPTQ, ICLR 2023, arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.moments import Moment
from calibration.thresholds import LEVELS

_SMALLEST_SCALE = 2.0**-24  # the smallest float16 above zero
_DAMPING = 0.01  # of the mean second moment: few rows don't tell all directions apart
_COLUMNS = 64  # rounded before the others learn of their errors: one matrix product instead of as many vectors'


@dataclass(frozen=True)
class Int8Weight:
    """A rounded weight.

    Args:
        values: in steps, of the weight's shape.
        scales: the step of each output channel; exact in float16.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def rounded(weight: NDArray[np.float32], axis: int, moment: Moment | None = None) -> Int8Weight:
    """Round a weight whose output channels lie along `axis`.

    Args:
        weight: of any shape.
        axis: of the output channels.
        moment: (inner, inner) of its inputs, in the order of its other axes; None rounds to the nearest step.
    """
    scales = weight_scales(weight, axis)
    channels = np.moveaxis(weight, axis, 0)
    rows = channels.reshape(len(channels), -1).astype(np.float64)
    steps = scales.astype(np.float64)[:, None]
    found = _nearest(rows, steps) if moment is None else _compensated(rows, steps, moment)
    values = np.moveaxis(found.astype(np.int8).reshape(channels.shape), 0, axis)
    return Int8Weight(np.ascontiguousarray(values), scales)


def weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A step for each output channel: its largest magnitude over 127; exact in float16."""
    largest = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    return np.array([half_up(float(value) / LEVELS or 1 / LEVELS) for value in largest], np.float32)


def half_up(scale: float) -> float:
    """The smallest float16 that is not below: rounding down would clip the largest value."""
    rounded = np.float16(max(scale, _SMALLEST_SCALE))
    return float(rounded if float(rounded) >= scale else np.nextafter(rounded, np.float16(np.inf)))


def _nearest(rows: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.round(rows / steps), -LEVELS, LEVELS)


def _compensated(rows: NDArray[np.float64], steps: NDArray[np.float64], moment: Moment) -> NDArray[np.float64]:
    """`rows` (channels, inner) in steps (channels, 1); columns in their order, in groups."""
    inner = rows.shape[1]
    damping = _DAMPING * float(np.diag(moment).mean())
    if not damping > 0:  # inputs that are zero alone tell nothing
        return _nearest(rows, steps)
    inverse = np.linalg.inv(moment + damping * np.eye(inner))
    # Row i of the factor: how an error in input i is best made good by those behind it.
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, found = rows.copy(), np.empty_like(rows)
    for start in range(0, inner, _COLUMNS):
        end = min(inner, start + _COLUMNS)
        errors = np.empty((len(rows), end - start))
        for column in range(start, end):
            found[:, column] = _nearest(left[:, column], steps[:, 0])
            error = (left[:, column] - found[:, column] * steps[:, 0]) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return found
