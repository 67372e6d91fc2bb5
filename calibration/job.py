"""One calibration: a prepared graph, its images, what is cached of it, and who hears of its progress."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import cache
from calibration.budget import Step
from calibration.cache import Cache
from calibration.image_set import ImageSet
from calibration.islands import measured_islands
from calibration.moments import View, view_of
from calibration.moments import record as record_moments
from calibration.products import Product
from calibration.qdq import Statistics, quantize
from calibration.ranges import Ranges
from calibration.selection import Selection
from calibration.sensitivity import BlockSensitivity
from calibration.shapes import Shape, image_shapes
from calibration.trials import BATCH, Placement, Trials, Variant
from calibration.weights import Int8Weight, rounded

FLOAT16_IMAGES = 16  # that every value of the graph is recorded on
MOMENT_IMAGES = 64  # that weights are rounded for
_FLOAT16_BATCH = 2  # all values of a large graph at once take 0.5 GB an image


class Listener(Protocol):
    """What a calibration reports while it goes on."""

    def phase(self, text: str, count: int, unit: str = "images") -> None: ...

    def advance(self, count: int) -> None: ...

    def sensitivity(self, found: BlockSensitivity) -> None: ...

    def step(self, step: Step) -> None: ...


@dataclass
class Job:
    """What the stages of a calibration share.

    Args:
        model: float32; see `calibration.graphs.prepare`.
        graph_sha256: of the file that it is from.
        selection: its images.
        cache: of earlier results.
        listener: hears of progress.
    """

    model: ir.Model
    graph_sha256: str
    selection: Selection
    cache: Cache
    listener: Listener
    shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = image_shapes(self.model)

    def islands(self) -> tuple[dict[str, str], Ranges]:
        """The nodes that float16 isn't safe for on calibration images, and the ranges of all values."""
        images = self.selection.calibration.whole(max(FLOAT16_IMAGES, self.selection.calibration.batch or 1))
        self.listener.phase("Recording all values", len(images))
        found = cache.ranges(
            self.cache, self.model, self.graph_sha256, images, batch=_FLOAT16_BATCH, progress=self.listener.advance
        )
        return measured_islands(self.model.graph, found, self.shapes), found

    def statistics(self, products: Sequence[Product], values: Collection[str]) -> Statistics:
        """What `products` are quantized from: histograms of `values` on all calibration images, and int8 weights."""
        images = self.selection.calibration
        self.listener.phase("Recording ranges for INT8", len(images))
        found = cache.ranges(
            self.cache, self.model, self.graph_sha256, images, values=values, progress=self.listener.advance
        )
        return Statistics(found.histograms, self._weights(products))

    def _weights(self, products: Sequence[Product]) -> dict[tuple[str, int], Int8Weight]:
        """The products' weights in int8, rounded for what some calibration images give them."""
        nodes = {node.name: node for node in self.model.graph}
        views: dict[tuple[str, int], list[View]] = {}
        arrays: dict[tuple[str, int], NDArray[np.float32]] = {}
        for product in products:
            if product.weight is not None and (value := nodes[product.node].inputs[product.weight]) is not None:
                assert value.const_value is not None
                key = str(value.name), product.axis
                arrays[key] = value.const_value.numpy().astype(np.float32)
                view = view_of(nodes[product.node], product)
                views.setdefault(key, []).extend([] if view is None else [view])
        images = self.selection.calibration.whole(max(MOMENT_IMAGES, self.selection.calibration.batch or 1))
        path = self.cache.path(
            "weights", graph=self.graph_sha256, images=images.content_sha256(), weights=sorted(arrays)
        )
        known = cache.unpacked_weights(self.cache.read(path))
        if known is not None and known.keys() == arrays.keys():
            return known
        self.listener.phase("Recording what weights meet", len(images))
        moments = record_moments(
            self.model, [view for own in views.values() for view in own], images.batches(BATCH), self.listener.advance
        )
        self.listener.phase("Rounding weights", len(arrays), unit="weights")
        made = {}
        for key, array in arrays.items():
            # Of a weight that several products share, each one's inputs count.
            own = [moments[view] for view in views[key]]
            made[key] = rounded(array, key[1], np.sum(own, 0) if own else None)
            self.listener.advance(1)
        self.cache.write(path, cache.packed_weights(made))
        return made

    def trials(self, statistics: Statistics, images: ImageSet, place: Placement = quantize) -> Trials:
        """Variants of the graph on some images, remembered in the cache."""
        key = {
            "graph": self.graph_sha256,
            "images": images.content_sha256(),
            "calibration": self.selection.calibration.content_sha256(),
            "place": place.__module__,
        }

        def remembered(variant: Variant) -> NDArray[np.float32] | None:
            arrays = self.cache.read(self.cache.path("logits", **key, variant=variant))
            found: Any = None if arrays is None else arrays.get("logits")
            return found if found is not None and len(found) == len(images) else None

        def remember(variant: Variant, logits: NDArray[np.float32]) -> None:
            self.cache.write(self.cache.path("logits", **key, variant=variant), {"logits": logits})

        return Trials(
            self.model, statistics, images, place=place, remembered=remembered, remember=remember,
            progress=self.listener.advance,
        )  # fmt: skip
