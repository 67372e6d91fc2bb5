"""One calibration: a prepared graph, its images, what is cached of it, and who hears of its progress."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import cache
from calibration.budget import Step
from calibration.cache import Cache
from calibration.histogram import Histogram
from calibration.image_set import ImageSet
from calibration.islands import measured_islands
from calibration.qdq import quantize
from calibration.ranges import Ranges
from calibration.selection import Selection
from calibration.sensitivity import BlockSensitivity
from calibration.shapes import Shape, image_shapes
from calibration.trials import Placement, Trials, Variant

FLOAT16_IMAGES = 16  # that every value of the graph is recorded on
_FLOAT16_BATCH = 2  # all values of a large graph at once take 0.5 GB an image


class Listener(Protocol):
    """What a calibration reports while it goes on."""

    def phase(self, text: str, images: int) -> None: ...

    def advance(self, images: int) -> None: ...

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

    def histograms(self, values: Collection[str]) -> dict[str, Histogram]:
        """Histograms of some values on all calibration images."""
        images = self.selection.calibration
        self.listener.phase("Recording ranges for INT8", len(images))
        found = cache.ranges(
            self.cache, self.model, self.graph_sha256, images, values=values, progress=self.listener.advance
        )
        return found.histograms

    def trials(self, histograms: dict[str, Histogram], images: ImageSet, place: Placement = quantize) -> Trials:
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
            self.model, histograms, images, place=place, remembered=remembered, remember=remember,
            progress=self.listener.advance,
        )  # fmt: skip
