"""Round weights to int8 and float16 so that their product's output changes least on real inputs.

With rounding to nearest, errors add up where inputs are correlated, as the pixels of a patch are: the sums shift. Here
weights are rounded input by input, and those still to be rounded compensate for the error, as far as the inputs' second
moments allow (Frantar et al., GPTQ, ICLR 2023, arXiv 2210.17323).

The second moments are XᵀX of a product's input rows (the patches of a convolution), on a sample of rows of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.products import Product
from hemf_export.calibration.ranges import LEVELS
from hemf_export.calibration.session import Session
from hemf_export.files.progress import IDLE, Task

_SMALLEST_SCALE = 2.0**-24  # the smallest float16 above zero
_DAMPING = 0.01  # share of the mean second moment: a few rows don't span all directions
_COLUMNS = 64  # inputs rounded before the others compensate: one matrix product instead of one per input
Moment = NDArray[np.float64]  # (inner, inner), mean over rows

LONGEST = 1024  # largest inner dimension: the cost grows with its cube, and the gain shrinks
_ROWS_AN_IMAGE = 128


@dataclass(frozen=True)
class Int8Weight:
    """Quantized weight.

    Args:
        values: int8 values in the weight's shape.
        scales: scale of each output channel; exact in float16.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


Rounding = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def rounded(
    weight: NDArray[np.float32], axis: int, moment: Moment | None = None, *, levels: int = LEVELS
) -> Int8Weight:
    """Quantize a weight to int8 with one scale per output channel.

    Args:
        weight: weight of any shape.
        axis: axis of the output channels.
        moment: second moment (inner, inner) of its inputs, in the order of its other axes; None rounds to nearest.
        levels: the largest magnitude of its integers.
    """
    scales = weight_scales(weight, axis, levels)
    steps = scales.astype(np.float64)
    in_steps = [-1 if place == axis else 1 for place in range(weight.ndim)]

    def nearest(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.round(column / steps), -levels, levels) * steps

    values = _by_columns(weight, axis, moment, nearest) / steps.reshape(in_steps)
    return Int8Weight(np.ascontiguousarray(np.round(values).astype(np.int8)), scales)


def half(weight: NDArray[np.float32], axis: int, moment: Moment) -> NDArray[np.float16]:
    """Round a weight to float16, see `rounded`; its values must be within float16's range.

    The precision of 11 bits suffices for a single layer. But the rest of the network amplifies errors of the first
    layers, and most of the error from their many roundings can be compensated.
    """

    def nearest(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return column.astype(np.float16).astype(np.float64)

    return np.ascontiguousarray(_by_columns(weight, axis, moment, nearest).astype(np.float16))


def weight_scales(weight: NDArray[np.float32], axis: int, levels: int = LEVELS) -> NDArray[np.float32]:
    """Return the scale of each output channel: its largest magnitude divided by `levels`; exact in float16."""
    largest = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    return np.array([half_up(float(value) / levels or 1 / levels) for value in largest], np.float32)


def half_up(scale: float) -> float:
    """Round up to float16: rounding down would clip the largest value."""
    rounded = np.float16(max(scale, _SMALLEST_SCALE))
    return float(rounded if float(rounded) >= scale else np.nextafter(rounded, np.float16(np.inf)))


def _by_columns(
    weight: NDArray[np.float32], axis: int, moment: Moment | None, nearest: Rounding
) -> NDArray[np.float64]:
    """Round a weight input by input; `nearest` rounds the weights (channels,) of one input."""
    channels = np.moveaxis(weight, axis, 0)
    rows = channels.reshape(len(channels), -1).astype(np.float64)
    # Inputs that are always zero have no moments.
    damping = 0.0 if moment is None else _DAMPING * float(np.diag(moment).mean())
    if moment is None or not damping > 0:
        rounded_rows = nearest(rows.T).T
    else:
        rounded_rows = _compensated(rows, moment + damping * np.eye(len(moment)), nearest)
    return np.moveaxis(rounded_rows.reshape(channels.shape), 0, axis)


def _compensated(rows: NDArray[np.float64], moment: Moment, nearest: Rounding) -> NDArray[np.float64]:
    """Round `rows` (channels, inner) by columns in their order, in groups."""
    inner = rows.shape[1]
    inverse = np.linalg.inv(moment)
    # Row i of the factor: how the inputs after i best compensate for an error in input i.
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, rounded_rows = rows.copy(), np.empty_like(rows)
    for start in range(0, inner, _COLUMNS):
        end = min(inner, start + _COLUMNS)
        errors = np.empty((len(rows), end - start))
        for column in range(start, end):
            rounded_rows[:, column] = nearest(left[:, column])
            error = (left[:, column] - rounded_rows[:, column]) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded_rows


@dataclass(frozen=True)
class View:
    """View of a value as the rows over which a product sums.

    Args:
        value: name of the value.
        last: whether the sums run along the last axis; otherwise along the one before.
        kernel: height and width of a convolution; None for a matrix product.
        strides: strides of the convolution.
        pads: padding of the convolution: top, left, bottom, right.
        dilations: dilations of the convolution.
    """

    value: str
    last: bool = True
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)

    def rows(self, array: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """Sample at most `count` rows (rows, inner) of one batch."""
        if self.kernel is not None:
            return self._patches(array, count, generator)
        if not self.last:
            array = np.moveaxis(array, -2, -1)
        rows = array.reshape(-1, array.shape[-1])
        return rows if len(rows) <= count else rows[generator.choice(len(rows), count, replace=False)]

    def _patches(self, array: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
        assert self.kernel is not None
        top, left, bottom, right = self.pads
        padded = np.pad(array, ((0, 0), (0, 0), (top, bottom), (left, right)))
        spans = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
        down, across = (
            (size - span) // stride + 1
            for size, span, stride in zip(padded.shape[2:], spans, self.strides, strict=True)
        )
        places = len(array) * down * across
        chosen = np.arange(places) if places <= count else generator.choice(places, count, replace=False)
        image, place = np.divmod(chosen, down * across)
        row, column = np.divmod(place, across)
        top_row, left_column = row * self.strides[0], column * self.strides[1]
        parts = [
            padded[image, :, top_row + i * self.dilations[0], left_column + k * self.dilations[1]]
            for i in range(self.kernel[0])
            for k in range(self.kernel[1])
        ]
        return np.stack(parts, 2).reshape(len(chosen), -1)  # (rows, channels, kernel), the order of a stored kernel


def view_of(node: ir.Node, product: Product) -> View | None:
    """Return the view of `product` on its input; None where no moments are used: too long, or another operator."""
    if product.weight is None or not 0 < product.inner <= LONGEST or not product.activations:
        return None
    weight = node.inputs[product.weight]
    assert weight is not None
    value, dimensions = product.activations[0][1], 0 if weight.shape is None else len(weight.shape)
    if node.op_type != "Conv":
        plain = dimensions == 2 and (product.weight == 1 or node.op_type == "MatMul")
        return View(value, last=product.weight == 1) if plain else None
    automatic = "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() not in ("", "NOTSET")
    grouped = "group" in node.attributes and node.attributes["group"].as_int() > 1
    if dimensions != 4 or automatic or grouped:
        return None
    assert weight.shape is not None
    kernel = tuple(int(size) for size in weight.shape[2:])  # type: ignore[arg-type]

    def integers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(node.attributes[name].as_ints()) if name in node.attributes else default

    return View(
        value, kernel=kernel, strides=integers("strides", (1, 1)), pads=integers("pads", (0, 0, 0, 0)),
        dilations=integers("dilations", (1, 1)),
    )  # fmt: skip


def record_moments(
    model: ir.Model,
    views: Sequence[View],
    batches: Iterable[NDArray[np.generic]],
    task: Task = IDLE,
) -> Mapping[View, Moment]:
    """Run the float32 `model` on `batches` and compute the second moment of each view.

    Args:
        model: see `calibration.graphs.prepare`.
        views: see `view_of`.
        batches: network input.
        task: advanced by the images of each batch.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph.
    """
    views = list(dict.fromkeys(views))
    inputs = {str(value.name) for value in model.graph.inputs}
    session = Session(model, outputs=sorted({view.value for view in views} - inputs), stream=True)
    generator = np.random.default_rng(0)
    sums: dict[View, Moment] = {}
    counts = dict.fromkeys(views, 0)
    runs = session.stream(batches) if session.outputs else ((batch, []) for batch in batches)
    for batch, arrays in runs:
        values = dict(zip(session.outputs, arrays, strict=True))
        values |= {name: np.asarray(batch, np.float32) for name in inputs}
        for view in views:
            rows = view.rows(values[view.value], _ROWS_AN_IMAGE * len(batch), generator)
            product = (rows.T @ rows).astype(np.float64)
            sums[view] = sums[view] + product if view in sums else product
            counts[view] += len(rows)
        task.advance(len(batch))
    return {view: total / max(1, counts[view]) for view, total in sums.items()}
