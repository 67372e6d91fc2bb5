"""Compare variants of a float32 graph that differ in the products in int8, by running them on images.

They are compared with the file that the graph was read from, not with the prepared graph: errors of the preparation
count too. The rest of a variant is float32, which runs several times faster on a CPU than float16; the float16 graph
that is shipped is proven at the end.

A block's sensitivity takes one or two variants: with this block alone in int8, and with every other block in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from hemf_export.calibration.emulation import fold_weights
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.products import Product
from hemf_export.calibration.qdq import Statistics, quantize
from hemf_export.calibration.ranges import Method
from hemf_export.calibration.session import Session
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.files.progress import SILENT, Progress
from hemf_export.metrics.comparison import Comparison, compare

BATCH = 4
FIRST = 64  # images that may suffice for a verdict; see `Trials.compare`

Placement = Callable[[ir.Model, Collection[Product], Statistics, Method], object]
Reference = Callable[[ImageSet], NDArray[np.float32]]  # logits (n, classes) of the images, in their order
Conclusive = Callable[[Comparison, int], bool]
Variant = tuple[tuple[str, ...], Method]  # nodes in int8, and the calibration method


class Trials:
    """Runs variants of `model` on one set of images.

    Args:
        model: float32; not changed.
        reference: computes the logits that all variants are compared with.
        statistics: statistics of the products' activations and weights.
        images: images that all variants are run on.
        output: kind of the model's output.
        place: inserts the quantization into a copy of the model.
        folded: fold int8 weights into dequantized float32 constants, which a CPU runs faster if it has no fast integer
            kernel.
        remembered: returns the logits of a variant for some images from an earlier run; None if there are none.
        remember: stores the logits of a variant.
        progress: receives the runs of the graphs.
    """

    def __init__(
        self,
        model: ir.Model,
        reference: Reference,
        statistics: Statistics,
        images: ImageSet,
        *,
        output: ModelOutput = LOGITS,
        place: Placement = quantize,
        folded: bool = False,
        remembered: Callable[[Variant, ImageSet], NDArray[np.float32] | None] = lambda variant, images: None,
        remember: Callable[[Variant, ImageSet, NDArray[np.float32]], None] = lambda variant, images, logits: None,
        progress: Progress = SILENT,
    ) -> None:
        self.model, self.statistics, self.images, self.output = model, statistics, images, output
        self._compute_reference = reference
        self._place, self._folded, self._progress = place, folded, progress
        self._remembered, self._remember = remembered, remember
        self._reference: NDArray[np.float32] | None = None

    @property
    def reference(self) -> NDArray[np.float32]:
        """Logits (n, classes) of the reference for the images; computed once."""
        if self._reference is None:
            self._reference = self._compute_reference(self.images)
        return self._reference

    @property
    def first(self) -> ImageSet:
        """Images that may suffice for a verdict."""
        return self._parts[0][1]

    def build(self, products: Collection[Product], method: Method) -> ir.Model:
        """Build a copy of the model with `products` in int8."""
        variant = copy_of(self.model)
        if products:
            self._place(variant, products, self.statistics, method)
        return variant

    def compare(
        self, products: Collection[Product], method: Method, conclusive: Conclusive = lambda comparison, images: False
    ) -> Comparison:
        """Compare the variant with `products` in int8 against the reference.

        Args:
            products: products in int8.
            method: calibration method of their ranges.
            conclusive: returns whether the comparison on the first images suffices, given the number of all images;
                then the others aren't run.
        """
        reference, labels = self.reference, self.images.labels
        places: list[int] = []
        parts: list[NDArray[np.float32]] = []
        for own, part in self._runs(products, method):
            places.extend(own)
            parts.append(part)
            comparison = compare(
                np.concatenate(parts), reference[places], None if labels is None else labels[places], output=self.output
            )
            if conclusive(comparison, len(self.images)):
                break
        return comparison

    def run(self, products: Collection[Product], method: Method) -> NDArray[np.float32]:
        """Compute the logits (n, classes) of the variant with `products` in int8."""
        places, parts = zip(*self._runs(products, method), strict=True)
        scores: NDArray[np.float32] = np.concatenate(parts)[np.argsort(np.concatenate(places))]
        return scores

    def _runs(
        self, products: Collection[Product], method: Method
    ) -> Iterator[tuple[Sequence[int], NDArray[np.float32]]]:
        """Yield the indices and logits of the first images, then of the others."""
        variant = tuple(sorted(product.node for product in products)), method
        session: Session | None = None
        for places, images in self._parts:
            scores = self._remembered(variant, images)
            if scores is None:
                session = session or self._session(products, method)
                scores = logits(session, images, self._progress)
                self._remember(variant, images, scores)
            yield places, scores

    def _session(self, products: Collection[Product], method: Method) -> Session:
        variant = self.build(products, method)
        if self._folded:
            fold_weights(variant.graph)
            common.RemoveUnusedNodesPass()(variant)
        return Session(variant, stream=True, as_written=self._folded, output=self.output)

    @cached_property
    def _parts(self) -> list[tuple[Sequence[int], ImageSet]]:
        """Indices and images of the two parts: the first images, each class by its share, and the others."""
        images, batch = self.images, self.images.batch or 1
        if len(images) < 2 * max(FIRST, batch):
            return [(range(len(images)), images)]
        first = set(images.whole(max(FIRST, batch)).images.paths)
        inside = np.array([path in first for path in images.images.paths])
        return [(places, images.only(places)) for places in (np.flatnonzero(own).tolist() for own in (inside, ~inside))]


def logits(
    model: ir.Model | Session,
    images: ImageSet,
    progress: Progress = SILENT,
    *,
    output: ModelOutput = LOGITS,
) -> NDArray[np.float32]:
    """Compute the model's scores (n, classes) for the images, in their order; a session brings its own `output`."""
    session = model if isinstance(model, Session) else Session(model, stream=True, output=output)
    parts = []
    with progress.task("Running the graph", len(images), "images") as task:
        for batch, outputs in session.stream(images.batches(BATCH)):
            parts.append(session.output.scores(outputs[0], len(batch)))
            task.advance(len(batch))
    return np.concatenate(parts)


@dataclass(frozen=True)
class BlockSensitivity:
    """Sensitivity of one block to int8.

    Args:
        block: name of the block.
        products: its quantizable products.
        share: their share of the graph's multiply-adds.
        alone: comparison of the graph with only this block in int8.
        left_out: comparison of the graph with everything but this block in int8; None if not requested.
    """

    block: str
    products: tuple[Product, ...]
    share: float
    alone: Comparison
    left_out: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        values = {
            "block": self.block,
            "products": [product.node for product in self.products],
            "share_of_multiply_adds": self.share,
            "alone": self.alone.to_dict(),
        }
        return values if self.left_out is None else {**values, "left_out": self.left_out.to_dict()}


def by_block(products: Sequence[Product]) -> dict[str, tuple[Product, ...]]:
    """Group quantizable products by block, in graph order."""
    names = dict.fromkeys(product.block for product in products if product.refusal is None)
    return {
        name: tuple(product for product in products if product.block == name and product.refusal is None)
        for name in names
    }


def measure_sensitivities(
    trials: Trials,
    products: Sequence[Product],
    method: Method,
    *,
    left_out: bool = True,
    progress: Progress = SILENT,
) -> list[BlockSensitivity]:
    """Measure each block alone in int8, and everything but it, on the trials' images.

    Args:
        trials: runs variants of the float32 model.
        products: all products of the graph; refused ones only count as multiply-adds.
        method: calibration method of the ranges.
        left_out: also measure the graph with everything but the block in int8.
        progress: receives each `BlockSensitivity` as an event.
    """
    work = sum(product.multiply_adds for product in products) or 1
    groups = by_block(products)
    everything = [product for group in groups.values() for product in group]
    sensitivities = []
    with progress.task("Measuring each block", len(groups), "blocks") as task:
        for block, group in groups.items():
            rest = [product for product in everything if product.block != block]
            sensitivities.append(
                BlockSensitivity(
                    block=block,
                    products=group,
                    share=sum(product.multiply_adds for product in group) / work,
                    alone=trials.compare(group, method),
                    left_out=trials.compare(rest, method) if left_out else None,
                )
            )
            progress.event(sensitivities[-1])
            task.advance()
    return sensitivities
