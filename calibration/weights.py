"""Weights in int8 and float16, each rounded so that its product's output changes least on real inputs.

To round every weight to the nearest value lets errors add up where inputs move together, as the pixels of a patch do:
the sums shift. Instead inputs are taken one after the other, and what rounding did is made good by the weights that are
still to be rounded, as far as the inputs' second moments allow (Frantar et al., GPTQ, ICLR 2023, arXiv 2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable
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


Rounding = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def rounded(weight: NDArray[np.float32], axis: int, moment: Moment | None = None) -> Int8Weight:
    """Round a weight whose output channels lie along `axis`.

    Args:
        weight: of any shape.
        axis: of the output channels.
        moment: (inner, inner) of its inputs, in the order of its other axes; None rounds to the nearest step.
    """
    scales = weight_scales(weight, axis)
    steps = scales.astype(np.float64)
    in_steps = [-1 if place == axis else 1 for place in range(weight.ndim)]

    def nearest(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.round(column / steps), -LEVELS, LEVELS) * steps

    values = _by_columns(weight, axis, moment, nearest) / steps.reshape(in_steps)
    return Int8Weight(np.ascontiguousarray(np.round(values).astype(np.int8)), scales)


def half(weight: NDArray[np.float32], axis: int, moment: Moment) -> NDArray[np.float16]:
    """Round a weight to float16, see `rounded`; its values must be within float16's range.

    A layer's eleven bits are enough for itself. But where the rest of the network amplifies what the first layers do,
    the sum of many roundings is what float16 costs, and most of it can be made good.
    """

    def nearest(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return column.astype(np.float16).astype(np.float64)

    return np.ascontiguousarray(_by_columns(weight, axis, moment, nearest).astype(np.float16))


def weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A step for each output channel: its largest magnitude over 127; exact in float16."""
    largest = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    return np.array([half_up(float(value) / LEVELS or 1 / LEVELS) for value in largest], np.float32)


def half_up(scale: float) -> float:
    """The smallest float16 that is not below: rounding down would clip the largest value."""
    rounded = np.float16(max(scale, _SMALLEST_SCALE))
    return float(rounded if float(rounded) >= scale else np.nextafter(rounded, np.float16(np.inf)))


def _by_columns(
    weight: NDArray[np.float32], axis: int, moment: Moment | None, nearest: Rounding
) -> NDArray[np.float64]:
    """A weight, rounded input by input; `nearest` rounds one input's weights, a value for each output channel."""
    channels = np.moveaxis(weight, axis, 0)
    rows = channels.reshape(len(channels), -1).astype(np.float64)
    # Inputs that are zero alone tell nothing.
    damping = 0.0 if moment is None else _DAMPING * float(np.diag(moment).mean())
    if moment is None or not damping > 0:
        found = nearest(rows.T).T
    else:
        found = _compensated(rows, moment + damping * np.eye(len(moment)), nearest)
    return np.moveaxis(found.reshape(channels.shape), 0, axis)


def _compensated(rows: NDArray[np.float64], moment: Moment, nearest: Rounding) -> NDArray[np.float64]:
    """Round `rows` (channels, inner); columns in their order, in groups."""
    inner = rows.shape[1]
    inverse = np.linalg.inv(moment)
    # Row i of the factor: how an error in input i is best made good by those behind it.
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, found = rows.copy(), np.empty_like(rows)
    for start in range(0, inner, _COLUMNS):
        end = min(inner, start + _COLUMNS)
        errors = np.empty((len(rows), end - start))
        for column in range(start, end):
            found[:, column] = nearest(left[:, column])
            error = (left[:, column] - found[:, column]) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return found
