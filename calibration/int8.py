"""Choose the products to quantize, all or as many as a budget allows, and the calibration method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hemf_export.calibration import budget as budgets
from hemf_export.calibration import qdq, trials
from hemf_export.calibration.budget import Budget, Step, Worth
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.job import Job
from hemf_export.calibration.products import QUANTIZABLE, Product, find_products
from hemf_export.calibration.qdq import Statistics
from hemf_export.calibration.ranges import LEVELS, METHODS, Method, source_of
from hemf_export.calibration.trials import BlockSensitivity, Placement
from hemf_export.files.errors import BadInputError

MethodChoice = Literal["auto"] | Method
NO_FASTER = "no faster in INT8 as the engine is compiled"
_SHOWN = 3  # nodes in a message
TRIAL_IMAGES = 32  # calibration images that variants are compared on: only the search uses held-out ones
ORDER_IMAGES = 16  # calibration images for the order of the blocks, if no report on them is requested


@dataclass(frozen=True)
class Plan:
    """Products to quantize, with the measurements that led to the choice.

    Args:
        products: all products of the graph, including refused ones.
        chosen: products to quantize.
        method: calibration method of the ranges.
        methods: KL divergence of the fully quantized graph by method, where several were tried.
        statistics: histograms and int8 weights to quantize with.
        sensitivities: sensitivity of each block; empty if not requested.
        steps: steps of the search; empty without a budget.
        place: inserts the quantization into a graph.
        worth: gain of the blocks.
    """

    products: tuple[Product, ...]
    chosen: tuple[Product, ...]
    method: Method
    methods: dict[str, float]
    statistics: Statistics
    sensitivities: tuple[BlockSensitivity, ...]
    steps: tuple[Step, ...]
    place: Placement
    worth: Worth

    @property
    def share(self) -> float:
        """Share of the graph's multiply-adds that are in int8."""
        return share_of(self.products, self.chosen)

    def products_of(self, blocks: Sequence[str]) -> tuple[Product, ...]:
        """Return the quantizable products of some blocks, in graph order."""
        return tuple(product for product in self.products if product.refusal is None and product.block in blocks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the share for the user: work that can't be counted or quantized."""
        unknown = [product.node for product in self.products if not product.counted]
        others = [p.node for p in self.products if p.operator not in QUANTIZABLE and p.counted]
        notes = []
        if unknown:
            notes.append(
                f"The work of {_named(unknown)} can't be counted: it stays out of INT8, and each counts as much as the "
                "graph's largest product."
            )
        if others:
            notes.append(f"{_named(others)} can't go into INT8: its operator is none of {', '.join(QUANTIZABLE)}.")
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        refusals: dict[str, int] = {}
        for product in self.products:
            if product.refusal is not None:
                refusals[product.refusal] = refusals.get(product.refusal, 0) + 1
        chosen = {product.node for product in self.chosen}
        out = [product.block for product in self.products if product.refusal is None and product.node not in chosen]
        return {
            "method": self.method,
            "methods_tried": self.methods,
            "products": len(self.products),
            "int8_products": len(self.chosen),
            "share_of_multiply_adds": self.share,
            "blocks_left_out": list(dict.fromkeys(out)),
            "never_quantized": refusals,
            "uncounted_products": [product.node for product in self.products if not product.counted],
        }


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return ", ".join(nodes[:_SHOWN]) + more


def share_of(products: Sequence[Product], chosen: Sequence[Product]) -> float:
    """Return the chosen products' share of all multiply-adds, rounded down to a thousandth: 1 only for all of them."""
    work = sum(product.multiply_adds for product in products)
    return 1000 * sum(product.multiply_adds for product in chosen) // max(1, work) / 1000


def products_of(job: Job, islands: Collection[str] = (), *, for_cpu: bool = False) -> tuple[Product, ...]:
    """Return all products of a job's graph, including refused ones.

    Args:
        job: holds the graph.
        islands: nodes that stay in float32.
        for_cpu: quantize for ONNX Runtime on a CPU; see `qdq.quantize_for_cpu`.
    """
    return tuple(find_products(job.model.graph, job.shapes, islands=() if for_cpu else islands, for_cpu=for_cpu))


def require_quantizable(products: Sequence[Product]) -> None:
    """Raise BadInputError if none of a graph's products can be quantized."""
    if all(product.refusal is not None for product in products):
        optimized = any(":" in product.operator for product in products)
        refusals = list(dict.fromkeys(str(product.refusal) for product in products))
        raise BadInputError(
            f"The graph has no product that INT8 can be used for: {'; '.join(refusals) or 'it has no products'}.",
            "Take the file that this one was optimized from." if optimized else "Build it in FP16.",
        )


def plan(
    job: Job,
    products: Sequence[Product],
    *,
    method: MethodChoice = "auto",
    budget: Budget | None = None,
    worth: Worth | None = None,
    with_sensitivity: bool = False,
    for_cpu: bool = False,
) -> Plan:
    """Decide which products to quantize, and how.

    Args:
        job: holds the graph and its images.
        products: products of the graph; see `products_of`.
        method: calibration method of the ranges; "auto" chooses the one that changes the logits least.
        budget: allowed loss on the held-out images; None quantizes everything.
        worth: gain by block and the products that gain, for the search; None for the share of multiply-adds.
        with_sensitivity: measure each block, quantized alone and left out, even without a budget.
        for_cpu: quantize for ONNX Runtime on a CPU; see `qdq.quantize_for_cpu`.
    """
    able = tuple(product for product in products if product.refusal is None)
    worth = worth or budgets.by_work(products)
    candidates = refusing(products, worth.nodes)
    place = qdq.quantize_for_cpu if for_cpu else qdq.quantize
    nodes = {node.name: node for node in job.model.graph}
    values = {
        value for product in able for index, _ in product.activations if (value := nodes[product.node].inputs[index])
    }
    if for_cpu:
        values |= {nodes[product.node].outputs[0] for product in able if product.operator == "Conv"}
    levels = qdq.CPU_LEVELS if for_cpu else LEVELS
    statistics = job.statistics(able, {str(source_of(value).name) for value in values}, levels)
    few = job.trials(statistics, _some(job, TRIAL_IMAGES), place)
    tried: dict[str, float] = {}
    if method == "auto":
        with job.progress.task("Trying the methods", len(METHODS), "methods") as task:
            for name in METHODS:
                tried[name] = few.compare(able, name).kl_divergence
                task.advance()
        chosen_method: Method = min(METHODS, key=lambda name: (math.isnan(tried[name]), tried[name]))
    else:
        chosen_method = method
    sensitivities: list[BlockSensitivity] = []
    if budget is not None or with_sensitivity:
        measured = few if with_sensitivity else job.trials(statistics, _some(job, ORDER_IMAGES), place)
        sensitivities = trials.measure_sensitivities(
            measured, candidates, chosen_method, left_out=with_sensitivity, progress=job.progress
        )
    steps: list[Step] = []
    chosen = able
    if budget is not None:
        held_out = job.trials(statistics, job.selection.held_out, place)
        with job.progress.task("Searching on held-out images"):
            steps = budgets.search(held_out, sensitivities, budget, chosen_method, worth, job.progress)
        best = budgets.best(steps, worth)
        names = () if best is None else best.blocks
        chosen = tuple(product for product in candidates if product.refusal is None and product.block in names)
    return Plan(candidates, chosen, chosen_method, tried, statistics, tuple(sensitivities), tuple(steps), place, worth)


def refusing(products: Sequence[Product], gaining: Collection[str], reason: str = NO_FASTER) -> tuple[Product, ...]:
    """Refuse the quantizable products whose node isn't in `gaining`, with `reason`."""
    return tuple(
        product
        if product.refusal is not None or product.node in gaining
        else dataclasses.replace(product, refusal=reason)
        for product in products
    )


def _some(job: Job, count: int) -> ImageSet:
    """Draw `count` of the calibration images, or one batch if a fixed batch is larger."""
    return job.selection.calibration.whole(max(count, job.selection.calibration.batch or 1))
