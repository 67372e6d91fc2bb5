"""Variants of one float32 graph that differ in what is in int8, run on images; so that choices can be compared.

They are compared with the file that the graph was read from, not with the graph: what preparing it changed counts too.
The rest of a trial is float32: it runs several times faster on a CPU than the float16 graph that is shipped, which is
proven on its own at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration.agreement import Comparison, compare
from calibration.emulation import fold_weights
from calibration.graphs import copy_of
from calibration.image_set import ImageSet
from calibration.products import Product
from calibration.qdq import Statistics, quantize
from calibration.session import Session
from calibration.thresholds import Method
from hemf.model_output import LOGITS, ModelOutput

BATCH = 4
FIRST = 64  # images that may tell enough; see `Trials.compare`

Placement = Callable[[ir.Model, Collection[Product], Statistics, Method], object]
Progress = Callable[[int], None]
Reference = Callable[[ImageSet, Progress], NDArray[np.float32]]  # logits (n, classes) of the images, in their order
Told = Callable[[Comparison, int], bool]
Variant = tuple[tuple[str, ...], Method]  # nodes in int8, and how their ranges are taken


class Trials:
    """Runs variants of `model` on one set of images.

    Args:
        model: float32, left as it is.
        reference: computes the logits that all variants are compared with.
        statistics: of the products' activations and weights.
        images: what all variants are run on.
        output: what the model's numbers are.
        place: puts the quantization into a copy of the model.
        folded: whether a trial's int8 weights are constants in float32, with the values that they stand for: what a
            CPU gains where it has no quick kernel for the rest of the quantization.
        remembered: looks up the logits of a variant that was run before, by the nodes in int8 and the method, and of
            some of the images.
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
        output: ModelOutput = LOGITS,
        place: Placement = quantize,
        folded: bool = False,
        remembered: Callable[[Variant, ImageSet], NDArray[np.float32] | None] = lambda variant, images: None,
        remember: Callable[[Variant, ImageSet, NDArray[np.float32]], None] = lambda variant, images, logits: None,
        progress: Progress = lambda images: None,
    ) -> None:
        self.model, self.statistics, self.images, self.output = model, statistics, images, output
        self._compute_reference = reference
        self._place, self._folded, self._progress = place, folded, progress
        self._remembered, self._remember = remembered, remember
        self._reference: NDArray[np.float32] | None = None

    @property
    def reference(self) -> NDArray[np.float32]:
        """The reference's logits of the images; computed once."""
        if self._reference is None:
            self._reference = self._compute_reference(self.images, self._progress)
        return self._reference

    @property
    def first(self) -> ImageSet:
        """The images that may tell enough."""
        return self._parts[0][1]

    def build(self, products: Collection[Product], method: Method) -> ir.Model:
        """A copy of the model with `products` in int8."""
        variant = copy_of(self.model)
        if products:
            self._place(variant, products, self.statistics, method)
        return variant

    def compare(
        self, products: Collection[Product], method: Method, told: Told = lambda found, images: False
    ) -> Comparison:
        """The variant with `products` in int8 beside the reference.

        Args:
            products: in int8.
            method: how their ranges are taken.
            told: whether the comparison on the first images tells enough of all, so many; then no others are run.
        """
        reference, labels = self.reference, self.images.labels
        places: list[int] = []
        parts: list[NDArray[np.float32]] = []
        for own, part in self._runs(products, method):
            places.extend(own)
            parts.append(part)
            found = compare(
                np.concatenate(parts), reference[places], None if labels is None else labels[places], output=self.output
            )
            if told(found, len(self.images)):
                break
        return found

    def run(self, products: Collection[Product], method: Method) -> NDArray[np.float32]:
        """Logits (n, classes) of the variant with `products` in int8."""
        places, parts = zip(*self._runs(products, method), strict=True)
        found: NDArray[np.float32] = np.concatenate(parts)[np.argsort(np.concatenate(places))]
        return found

    def _runs(
        self, products: Collection[Product], method: Method
    ) -> Iterator[tuple[Sequence[int], NDArray[np.float32]]]:
        """The logits of the first images, then of the others, and their places."""
        variant = tuple(sorted(product.node for product in products)), method
        session: Session | None = None
        for places, images in self._parts:
            found = self._remembered(variant, images)
            if found is None:
                session = session or self._session(products, method)
                found = logits(session, images, self._progress)
                self._remember(variant, images, found)
            else:
                self._progress(len(images))
            yield places, found

    def _session(self, products: Collection[Product], method: Method) -> Session:
        variant = self.build(products, method)
        if self._folded:
            fold_weights(variant.graph)
            common.RemoveUnusedNodesPass()(variant)
        return Session(variant, stream=True, as_written=self._folded, output=self.output)

    @cached_property
    def _parts(self) -> list[tuple[Sequence[int], ImageSet]]:
        """Places of images and the images: the first ones, each class by its share, then the others."""
        images, batch = self.images, self.images.batch or 1
        if len(images) < 2 * max(FIRST, batch):
            return [(range(len(images)), images)]
        first = set(images.whole(max(FIRST, batch)).images.paths)
        inside = np.array([path in first for path in images.images.paths])
        return [(places, images.only(places)) for places in (np.flatnonzero(own).tolist() for own in (inside, ~inside))]


def logits(
    model: ir.Model | Session,
    images: ImageSet,
    progress: Progress = lambda images: None,
    *,
    output: ModelOutput = LOGITS,
) -> NDArray[np.float32]:
    """The model's scores (n, classes) of all the images, in their order; `output` is of a model that is no session."""
    session = model if isinstance(model, Session) else Session(model, stream=True, output=output)
    parts = []
    for batch, found in session.stream(images.batches(BATCH)):
        parts.append(session.output.scores(found[0], len(batch)))
        progress(len(batch))
    return np.concatenate(parts)
