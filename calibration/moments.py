"""Second moments of what products sum over: how the inputs of a weight move together on real images.

XᵀX of a product's input rows, a convolution's patches among them, on a sample of rows of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.products import Product
from calibration.session import Session

Moment = NDArray[np.float64]  # (inner, inner), mean over rows

LONGEST = 1024  # inner dimension: what rounding with moments costs grows with its cube, what it gains shrinks
_ROWS_AN_IMAGE = 128


@dataclass(frozen=True)
class View:
    """How a product's sums run over a value.

    Args:
        value: its name.
        last: whether they run along the last axis; otherwise along the one before.
        kernel: height and width of a convolution; None for a matrix product.
        strides: of the convolution.
        pads: of the convolution: top, left, bottom, right.
        dilations: of the convolution.
    """

    value: str
    last: bool = True
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)

    def rows(self, array: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """A sample of at most `count` rows (rows, inner) of one batch."""
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
        taken = np.arange(places) if places <= count else generator.choice(places, count, replace=False)
        image, place = np.divmod(taken, down * across)
        row, column = np.divmod(place, across)
        top_row, left_column = row * self.strides[0], column * self.strides[1]
        parts = [
            padded[image, :, top_row + i * self.dilations[0], left_column + k * self.dilations[1]]
            for i in range(self.kernel[0])
            for k in range(self.kernel[1])
        ]
        return np.stack(parts, 2).reshape(len(taken), -1)  # (rows, channels, kernel), as a kernel is stored


def view_of(node: ir.Node, product: Product) -> View | None:
    """How `product`'s sums run over its input; None where moments are not taken: too long, or of another kind."""
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


def record(
    model: ir.Model,
    views: Sequence[View],
    batches: Iterable[NDArray[np.generic]],
    progress: Callable[[int], None] = lambda images: None,
) -> Mapping[View, Moment]:
    """Run the float32 `model` on `batches` and take the second moment of each view.

    Args:
        model: see `calibration.graphs.prepare`.
        views: see `view_of`.
        batches: network input.
        progress: told the images of each batch.

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
        progress(len(batch))
    return {view: total / max(1, counts[view]) for view, total in sums.items()}
