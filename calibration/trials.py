"""Variants of one float32 graph that differ in what is in int8, run on images; so that choices can be compared.

They are compared with the file that the graph was read from, not with the graph: what preparing it changed counts too.
The rest of a trial is float32: it runs several times faster on a CPU than the float16 graph that is shipped, which is
proven on its own at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.agreement import Comparison, compare
from calibration.graphs import copy_of
from calibration.image_set import ImageSet
from calibration.products import Product
from calibration.qdq import Statistics, quantize
from calibration.session import Session
from calibration.thresholds import Method

BATCH = 4

Placement = Callable[[ir.Model, Collection[Product], Statistics, Method], object]
Progress = Callable[[int], None]
Reference = Callable[[ImageSet, Progress], NDArray[np.float32]]  # logits (n, classes) of the images, in their order
Variant = tuple[tuple[str, ...], Method]  # nodes in int8, and how their ranges are taken


class Trials:
    """Runs variants of `model` on one set of images.

    Args:
        model: float32, left as it is.
        reference: computes the logits that all variants are compared with.
        statistics: of the products' activations and weights.
        images: what all variants are run on.
        place: puts the quantization into a copy of the model.
        remembered: looks up the logits of a variant that was run before, by the nodes in int8 and the method.
        remember: keeps them.
        progress: told the images of each batch that was run.
    """

    def __init__(
        self,
        model: ir.Model,
        reference: Reference,
        statistics: Statistics,
        images: ImageSet,
        *,
        place: Placement = quantize,
        remembered: Callable[[Variant], NDArray[np.float32] | None] = lambda variant: None,
        remember: Callable[[Variant, NDArray[np.float32]], None] = lambda variant, logits: None,
        progress: Progress = lambda images: None,
    ) -> None:
        self.model, self.statistics, self.images = model, statistics, images
        self._compute_reference = reference
        self._place, self._progress = place, progress
        self._remembered, self._remember = remembered, remember
        self._reference: NDArray[np.float32] | None = None

    @property
    def reference(self) -> NDArray[np.float32]:
        """The reference's logits of the images; computed once."""
        if self._reference is None:
            self._reference = self._compute_reference(self.images, self._progress)
        return self._reference

    def build(self, products: Collection[Product], method: Method) -> ir.Model:
        """A copy of the model with `products` in int8."""
        variant = copy_of(self.model)
        if products:
            self._place(variant, products, self.statistics, method)
        return variant

    def compare(self, products: Collection[Product], method: Method) -> Comparison:
        """The variant with `products` in int8 beside the reference."""
        reference = self.reference
        return compare(self.run(products, method), reference, self.images.labels)

    def run(self, products: Collection[Product], method: Method) -> NDArray[np.float32]:
        """Logits (n, classes) of the variant with `products` in int8."""
        variant = tuple(sorted(product.node for product in products)), method
        found = self._remembered(variant)
        if found is not None:
            self._progress(len(self.images))
            return found
        found = logits(self.build(products, method), self.images, self._progress)
        self._remember(variant, found)
        return found


def logits(
    model: ir.Model | Session, images: ImageSet, progress: Progress = lambda images: None
) -> NDArray[np.float32]:
    """The model's logits (n, classes) of all the images, in their order."""
    session = model if isinstance(model, Session) else Session(model)
    parts = []
    for batch in images.batches(BATCH):
        parts.append(session.logits(batch))
        progress(len(batch))
    return np.concatenate(parts)
