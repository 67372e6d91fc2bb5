"""State of one calibration: a prepared graph, its images, the cache of its results and its progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import cache
from hemf_export.calibration.blocks import RESIZE, block_of
from hemf_export.calibration.cache import Cache
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.fp16 import FLOAT16_MAX, measured_islands
from hemf_export.calibration.graphs import Shape, image_shapes
from hemf_export.calibration.image_set import ImageSet, Selection
from hemf_export.calibration.products import QUANTIZABLE, Product, find_products
from hemf_export.calibration.qdq import Statistics, quantize, quantize_for_cpu
from hemf_export.calibration.ranges import LEVELS, Ranges
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import Placement, Trials, Variant, logits
from hemf_export.calibration.weights import Int8Weight, Moment, View, half, record_moments, rounded, view_of
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.progress import Progress

FLOAT16_IMAGES = 16  # images on which every value of the graph is recorded
MOMENT_IMAGES = 64  # images whose second moments guide the rounding of weights
_FLOAT16_BATCH = 1  # all values of a large graph take 0.5 GB per image
# Part of the cache's keys: other names would invalidate everything cached.
_PLACEMENT_KEYS: dict[Placement, str] = {
    quantize: "calibration.qdq",
    quantize_for_cpu: "calibration.cpu_qdq of 7 bits",  # the name without them: what 8-bit weights gave
}


@dataclass(frozen=True)
class _Weight:
    """Weight with the views of the inputs of the products that use it."""

    array: NDArray[np.float32]
    views: list[View] = field(default_factory=list)


_Rounding = Callable[[tuple[str, int], _Weight, Moment | None], tuple[NDArray[Any], ...]]


def _in_int8(levels: int) -> _Rounding:
    def rounding(key: tuple[str, int], weight: _Weight, moment: Moment | None) -> tuple[NDArray[Any], ...]:
        weight_in_int8 = rounded(weight.array, key[1], moment, levels=levels)
        return weight_in_int8.values, weight_in_int8.scales

    return rounding


def _in_float16(key: tuple[str, int], weight: _Weight, moment: Moment | None) -> tuple[NDArray[Any], ...]:
    assert moment is not None, "only weights with a view are rounded here"
    return (half(weight.array, key[1], moment),)


@dataclass
class Job:
    """State that the stages of a calibration share.

    Args:
        model: float32; see `calibration.graphs.prepare`.
        original: the unchanged file in ONNX Runtime: the reference of every comparison.
        graph_sha256: SHA-256 of that file.
        selection: calibration set and held-out set.
        cache: cache of earlier results.
        progress: receives the steps.
        rewriting: rewriting of the file's graph that gave `model`.
    """

    model: ir.Model
    original: Session
    graph_sha256: str
    selection: Selection
    cache: Cache
    progress: Progress
    rewriting: Rewriting = field(default_factory=lambda: Rewriting("cpu", {}))
    shapes: dict[str, Shape] = field(init=False)
    _logits: dict[str, NDArray[np.float32]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = image_shapes(self.model)

    @cached_property
    def graph_key(self) -> str:
        """Key of the graph in the cache: the file's hash, and the hash of the graph after rewriting."""
        nodes = [
            [node.op_type, node.name, [value and value.name for value in node.inputs],
             [value.name for value in node.outputs], sorted(map(str, node.attributes.values()))]
            for node in self.model.graph
        ]  # fmt: skip
        return f"{self.graph_sha256} {hashlib.sha256(json.dumps(nodes).encode()).hexdigest()}"

    @property
    def output(self) -> ModelOutput:
        """Kind of scores that the file and every graph made from it output."""
        return self.original.output

    def islands(self) -> tuple[dict[str, str], Ranges]:
        """Find the nodes for which float16 isn't safe on calibration images, and the ranges of all values."""
        images = self.selection.calibration.whole(max(FLOAT16_IMAGES, self.selection.calibration.batch or 1))
        with self.progress.task("Recording all values", len(images), "images") as task:
            ranges = cache.ranges(self.cache, self.model, self.graph_key, images, batch=_FLOAT16_BATCH, task=task)
        return measured_islands(self.model.graph, ranges, self.shapes), ranges

    def statistics(self, products: Sequence[Product], values: Collection[str], levels: int = LEVELS) -> Statistics:
        """Record the statistics to quantize `products` with: calibration histograms of `values`, and int8 weights.

        Args:
            products: see `int8.products_of`.
            values: names of the products' activations.
            levels: the largest magnitude of a weight's integers.
        """
        images = self.selection.calibration
        with self.progress.task("Recording ranges for INT8", len(images), "images") as task:
            ranges = cache.ranges(self.cache, self.model, self.graph_key, images, values=values, task=task)
        return Statistics(ranges.histograms, self._int8_weights(products, levels))

    def float16_weights(self) -> dict[str, NDArray[np.float16]]:
        """Return products' weights in float16, by name, rounded to change outputs on calibration images least."""
        weights = self._weights_of(find_products(self.model.graph, self.shapes))
        wanted = {key: own for key, own in weights.items() if own.views and np.abs(own.array).max() <= FLOAT16_MAX}
        halves = self._rounded("halves", wanted, _in_float16)
        return {name: arrays[0] for (name, _), arrays in halves.items()}

    def _int8_weights(self, products: Sequence[Product], levels: int) -> dict[tuple[str, int], Int8Weight]:
        kind = "weights" if levels == LEVELS else f"weights_to_{levels}"
        int8 = self._rounded(kind, self._weights_of(products), _in_int8(levels))
        return {key: Int8Weight(*arrays) for key, arrays in int8.items()}

    def _weights_of(self, products: Sequence[Product]) -> dict[tuple[str, int], _Weight]:
        """Collect the products' weights by name and output axis; a shared weight has the views of all its products."""
        nodes = {node.name: node for node in self.model.graph}
        weights: dict[tuple[str, int], _Weight] = {}
        for product in products:
            if block_of(product.node) == RESIZE or product.operator not in QUANTIZABLE:
                continue  # exact in float16 anyway, or an operator whose sums have no view
            if product.weight is not None and (value := nodes[product.node].inputs[product.weight]) is not None:
                assert value.const_value is not None
                array = value.const_value.numpy().astype(np.float32)
                weight = weights.setdefault((str(value.name), product.axis), _Weight(array))
                weight.views.extend([] if (view := view_of(nodes[product.node], product)) is None else [view])
        return weights

    def _rounded(
        self, kind: str, weights: dict[tuple[str, int], _Weight], rounding: _Rounding
    ) -> dict[tuple[str, int], tuple[NDArray[Any], ...]]:
        """Round `weights` with `rounding`, or read the result from the cache."""
        images = self.selection.calibration.whole(max(MOMENT_IMAGES, self.selection.calibration.batch or 1))
        path = self.cache.path(kind, graph=self.graph_key, images=images.content_sha256(), weights=sorted(weights))
        known = cache.unpacked_arrays(self.cache.read(path))
        if known is not None and known.keys() == weights.keys():
            return known
        views = [view for weight in weights.values() for view in weight.views]
        with self.progress.task("Recording the inputs of weights", len(images), "images") as task:
            moments = record_moments(self.model, views, images.batches(cache.RECORD_BATCH), task)
        arrays = {}
        with self.progress.task("Rounding weights", len(weights), "weights") as task:
            for key, weight in weights.items():
                own = [moments[view] for view in weight.views]
                arrays[key] = rounding(key, weight, np.sum(own, 0) if own else None)
                task.advance()
        self.cache.write(path, cache.packed_arrays(arrays))
        return arrays

    def trials(self, statistics: Statistics, images: ImageSet, place: Placement = quantize) -> Trials:
        """Return trials of the graph's variants on some images, with results kept in the cache."""
        hashes: dict[ImageSet, str] = {}

        def key(variant: Variant, images: ImageSet) -> dict[str, Any]:
            if images not in hashes:
                hashes[images] = images.content_sha256()
            calibration = self.selection.calibration
            if calibration not in hashes:
                hashes[calibration] = calibration.content_sha256()
            return {
                "graph": self.graph_key,
                "images": hashes[images],
                "calibration": hashes[calibration],
                "place": _PLACEMENT_KEYS[place],
                "output": self.output.kind,
                "variant": variant,
            }

        def remembered(variant: Variant, images: ImageSet) -> NDArray[np.float32] | None:
            return self._kept_logits(len(images), key(variant, images))

        def remember(variant: Variant, images: ImageSet, logits: NDArray[np.float32]) -> None:
            self._keep_logits(logits, key(variant, images))

        return Trials(
            self.model, self.reference, statistics, images, output=self.output, place=place, folded=place is quantize,
            remembered=remembered, remember=remember, progress=self.progress,
        )  # fmt: skip

    def reference(self, images: ImageSet) -> NDArray[np.float32]:
        """Compute the logits (n, classes) of `images` by the original file, or read them from the cache."""
        key = {"graph": self.graph_sha256, "images": images.content_sha256(), "reference": "the file itself",
               "output": self.output.kind}  # fmt: skip
        scores = self._kept_logits(len(images), key)
        if scores is not None:
            return scores
        scores = logits(self.original, images, self.progress)
        self._keep_logits(scores, key)
        return scores

    def _kept_logits(self, count: int, key: Mapping[str, Any]) -> NDArray[np.float32] | None:
        if (known := self._logits.get(repr(key))) is not None:
            return known
        arrays = self.cache.read(self.cache.path("logits", **key))
        scores: Any = None if arrays is None else arrays.get("logits")
        return scores if scores is not None and len(scores) == count else None

    def _keep_logits(self, scores: NDArray[np.float32], key: Mapping[str, Any]) -> None:
        self._logits[repr(key)] = scores
        self.cache.write(self.cache.path("logits", **key), {"logits": scores})
