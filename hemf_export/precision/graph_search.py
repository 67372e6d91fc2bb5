"""Search for the FP16 or INT8 graph that keeps its bounds or budget, and prove it on held-out images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import budget, forms, int8, repair
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.int8 import Plan
from hemf_export.calibration.job import Job
from hemf_export.calibration.products import Product
from hemf_export.calibration.qdq import Statistics
from hemf_export.files.errors import BadInputError, CheckFailedError, MissingCapabilityError
from hemf_export.metrics.comparison import Comparison, compare
from hemf_export.models.description import Description, Precision
from hemf_export.precision import int8_choice
from hemf_export.precision.bounds import BoundMissedError
from hemf_export.precision.graph_file import Gain, Graph
from hemf_export.precision.int8_choice import Choice, EngineTrial, EngineTrials
from hemf_export.precision.quantization_request import Request

_COMPILED = 3  # graphs within the budget whose engines are compared
FP16_BUDGET = Budget(0.1)  # goal for an FP16 graph, met where possible; only a requested budget is required


def for_gpu(request: Request, job: Job, described: Description, last: Collection[str]) -> Graph:
    """Make and prove the FP16 graph, or the INT8 graph with float16 in between.

    Args:
        request: request for the graph.
        job: the float32 graph and its images.
        described: description of the float32 file.
        last: names of the passes after quantization.
    """
    islands, _ = job.islands()
    if request.precision == "fp16":
        return _Proofs(request, job, islands, last).prove(())
    products = int8.products_of(job, islands)
    if request.budget is not None:
        return _within_budget(request, job, described, products, islands, last)
    int8.require_quantizable(products)
    plan = int8.plan(job, products, method=request.method, with_sensitivity=request.with_sensitivity)
    return _Proofs(request, job, islands, last, plan).prove(plan.chosen)


def _within_budget(
    request: Request,
    job: Job,
    described: Description,
    products: tuple[Product, ...],
    islands: dict[str, str],
    last: Collection[str],
) -> Graph:
    """Find the graph of the fastest engine within the budget: INT8 where that is enough faster, else FP16."""
    if all(product.refusal is not None for product in products):
        graph = _Proofs(request, job, islands, last).prove(())
        return dataclasses.replace(graph, notes=("The graph has no product that INT8 can be used for.",))
    compiler = request.compiler.for_batch(described.batch)
    engines = EngineTrials(job.model, products, islands, compiler, last=last, progress=job.progress)
    try:
        choice = int8_choice.choose(engines)
    except (MissingCapabilityError, BadInputError) as error:  # the backend isn't here, or can't build the graph
        plan = int8.plan(
            job, products, method=request.method, budget=request.budget, with_sensitivity=request.with_sensitivity
        )
        proofs = _Proofs(request, job, islands, last, plan)
        kept = (plan.products_of(step.blocks) for step in budget.kept_steps(plan.steps, plan.worth))
        graph = proofs.first([*kept, ()])
        note = f"INT8 goes by its share of the work, as no engine can be compared here: {error.message}"
        return dataclasses.replace(graph, notes=(note,))
    plan = int8.plan(
        job, products, method=request.method, budget=request.budget if choice.worthwhile else None,
        worth=choice.worth if choice.worthwhile else None, with_sensitivity=request.with_sensitivity,
    )  # fmt: skip
    proofs = _Proofs(request, job, islands, last, plan)

    def is_faster(graph: Graph) -> bool:
        return not graph.plan or not graph.plan.chosen or choice.is_worthwhile(_compiled(engines, graph))

    graph = proofs.first([*_fastest_first(plan, choice), ()], is_faster)
    # `choice.fp16` stays the engine that INT8 was compared with, even if the proof put other nodes in float32.
    choice = dataclasses.replace(choice, chosen=_compiled(engines, graph))
    assert graph.plan is not None
    if not choice.worthwhile:
        gaining = frozenset() if choice.best is None else choice.best.nodes
        refused = int8.refusing(int8.refusing(graph.plan.products, gaining), (), int8_choice.TOO_LITTLE)
        graph = dataclasses.replace(graph, plan=dataclasses.replace(graph.plan, products=refused))
    with job.progress.task("Measuring what was not chosen"):
        figures = proofs.beside(choice, graph)
    return dataclasses.replace(graph, gain=Gain(choice, figures))


def _fastest_first(plan: Plan, choice: Choice) -> list[tuple[Product, ...]]:
    """List the sets of products within the budget whose engine is enough faster than FP16, the fastest first."""
    faster: list[tuple[float, int, tuple[Product, ...]]] = []
    for step in budget.kept_steps(plan.steps, plan.worth)[:_COMPILED]:
        products = plan.products_of(step.blocks)
        trial = choice.trials.attempt(f"{len(step.blocks)} blocks within the budget", products)
        if trial is not None and choice.is_worthwhile(trial):
            faster.append((trial.model_ms, len(faster), products))
    return [products for _, _, products in sorted(faster, key=lambda each: each[:2])]


def _compiled(engines: EngineTrials, graph: Graph) -> EngineTrial:
    """Compile the engine of a proven graph, with the float32 nodes that its proof needed."""
    chosen = graph.plan.chosen if graph.plan is not None else ()
    islands = graph.conversion.islands if graph.conversion is not None else {}
    return engines.run("what was proven", chosen, islands)


class _Proofs:
    """Makes FP16 graphs with some products in INT8, and proves them on the held-out images.

    Args:
        request: request, with the bounds or the budget.
        job: the float32 graph and its images.
        islands: nodes that stay in float32.
        last: names of the passes after quantization.
        plan: INT8 plan; None for FP16 alone.
    """

    def __init__(
        self, request: Request, job: Job, islands: dict[str, str], last: Collection[str], plan: Plan | None = None
    ) -> None:
        self._request, self._job, self._islands, self._last, self._plan = request, job, islands, last, plan
        self._trials = job.trials(Statistics() if plan is None else plan.statistics, job.selection.held_out)
        self._missed: list[str] = []

    def prove(self, products: tuple[Product, ...]) -> Graph:
        """Make and prove the graph with these products in INT8.

        Raises:
            BoundMissedError: it exceeds a bound or the budget.
        """
        return self.first([products])

    def first(
        self, candidates: Sequence[tuple[Product, ...]], accept: Callable[[Graph], bool] = lambda graph: True
    ) -> Graph:
        """Prove sets of products in INT8 in order, up to the first whose graph passes and is accepted.

        Raises:
            BoundMissedError: none is.
        """
        for products in candidates:
            graph = self._graph(products)
            if graph is not None and accept(graph):
                return graph
        what = f"{self._request.source.name} in {'INT8' if candidates[-1] else 'FP16'}"
        raise BoundMissedError(what, self._missed, f"{len(self._job.selection.held_out)} held-out images")

    def beside(self, choice: Choice, graph: Graph) -> dict[str, Comparison]:
        """Compare FP16, the chosen, the fastest and the all-INT8 graph with float32, on the same few images.

        For FP16 and the chosen graph float16 is emulated; the others have float32 between their INT8 products.
        """
        assert self._plan is not None
        job, few = self._job, self._trials.first
        reference = job.reference(few)

        def comparison_of(logits: NDArray[np.float32]) -> Comparison:
            return compare(logits, reference, few.labels, output=job.output)

        places = {path: place for place, path in enumerate(job.selection.held_out.images.paths)}
        comparisons = {"chosen": comparison_of(graph.logits[[places[path] for path in few.images.paths]])}
        for name, trial in (("best", choice.best), ("all_int8", choice.everything)):
            if trial is not None and trial.nodes == choice.chosen.nodes:
                comparisons[name] = comparisons["chosen"]
            elif trial is not None:
                products = [product for product in choice.trials.products if product.node in trial.nodes]
                comparisons[name] = self._trials.compare(products, self._plan.method, lambda comparison, images: True)
        if graph.precision == "fp16":
            return {**comparisons, "fp16": comparisons["chosen"]}
        mended, _ = self._convert((), few, reference, lambda logits: True, lambda logits: True)
        return {**comparisons, "fp16": comparison_of(mended.logits)}

    def _graph(self, products: tuple[Product, ...]) -> Graph | None:
        """Prove the graph with these products in INT8; None where it fails, with the reasons in `_missed`."""
        with self._job.progress.task("Proving on held-out images"):
            return self._proven(products)

    def _proven(self, products: tuple[Product, ...]) -> Graph | None:
        request, job, held_out = self._request, self._job, self._job.selection.held_out
        reference = self._trials.reference

        def problems(logits: NDArray[np.float32]) -> list[str]:
            comparison = compare(logits, reference, held_out.labels, output=job.output)
            return _missed(request, comparison, job, int8=bool(products))

        def close_enough(logits: NDArray[np.float32]) -> bool:
            comparison = compare(logits, reference, held_out.labels, output=job.output)
            asked = request.budget is not None and request.precision == "fp16"
            return asked or bool(products) or not FP16_BUDGET.missed(comparison)

        mended, rewriting = self._convert(
            products, held_out, reference, lambda logits: not problems(logits), close_enough
        )
        self._missed = problems(mended.logits)
        if self._missed:
            return None
        plan = None if self._plan is None else dataclasses.replace(self._plan, chosen=products)
        comparison = compare(mended.logits, reference, held_out.labels, output=job.output)
        kind: Precision = "int8" if products else "fp16"
        bound = None if products else request.bounds.score_bound(job.output, comparison.largest_logit)
        return Graph(
            mended.model, kind, mended.logits, reference, comparison, mended.conversion, plan, rewriting, bound
        )

    def _convert(
        self,
        products: tuple[Product, ...],
        images: ImageSet,
        reference: NDArray[np.float32],
        holds: Callable[[NDArray[np.float32]], bool],
        close_enough: Callable[[NDArray[np.float32]], bool],
    ) -> tuple[repair.Mended, Rewriting]:
        """Convert to FP16 with `products` in INT8, moving nodes to float32 until the graph passes."""
        job = self._job
        variant = self._trials.build(products, "max" if self._plan is None else self._plan.method)
        if not products:
            _round_weights(variant, job)
        rewriting = job.rewriting + forms.rewrite(variant, self._request.compiler.form, only=self._last)
        mended = repair.convert(
            variant, self._islands, images, reference, holds, close_enough=close_enough,
            noisy=_noisy(job, variant, wanted=not products), progress=job.progress, output=job.output,
        )  # fmt: skip
        return mended, rewriting


def _round_weights(model: ir.Model, job: Job) -> None:
    """Round the weights of a copy of the job's graph to float16 values."""
    for name, weight in job.float16_weights().items():
        model.graph.initializers[name].const_value = ir.Tensor(weight.astype(np.float32), name=name)


def _noisy(job: Job, model: ir.Model, *, wanted: bool) -> Callable[[dict[str, str]], list[str]]:
    """Build the search for the noisiest blocks in float16, on calibration images; unused (`wanted`) with INT8."""

    def noisy_blocks(islands: dict[str, str]) -> list[str]:
        if not wanted:
            return []
        where = blocks(model.graph)
        images = job.selection.calibration.whole(max(repair.NOISE_IMAGES, job.selection.calibration.batch or 1))
        return repair.noisy_blocks(model, islands, where, images, job.progress, output=job.output)

    return noisy_blocks


def for_cpu(request: Request, job: Job) -> Graph:
    """Make and prove the INT8 graph for a CPU, with float32 between products: the graph of the search itself."""
    products = int8.products_of(job, for_cpu=True)
    int8.require_quantizable(products)
    plan = int8.plan(
        job, products, method=request.method, budget=request.budget,
        with_sensitivity=request.with_sensitivity, for_cpu=True,
    )  # fmt: skip
    if not plan.chosen:
        raise CheckFailedError(
            f"No INT8 graph of {request.source.name} for a CPU keeps the budget: the float32 file is the answer.",
            "No file was kept. To allow more: `max_logit_diff`, `min_agreement` or `max_drop`.",
        )
    held_out = job.selection.held_out
    trials = job.trials(plan.statistics, held_out, plan.place)
    with job.progress.task("Proving on held-out images"):
        proven = trials.run(plan.chosen, plan.method)
        comparison = compare(proven, trials.reference, held_out.labels, output=job.output)
    if missed := _missed(request, comparison, job, int8=True):
        what = f"{request.source.name} in INT8 for a CPU"
        raise BoundMissedError(what, missed, f"{len(held_out)} held-out images")
    model = trials.build(plan.chosen, plan.method)
    return Graph(model, "int8-cpu", proven, trials.reference, comparison, None, plan, job.rewriting)


def _missed(request: Request, comparison: Comparison, job: Job, *, int8: bool) -> list[str]:
    """List the limits that a graph exceeds, in words: the budget, and for FP16 the bounds too."""
    if not comparison.finite:
        return ["logits that are not finite"]
    problems = [] if request.budget is None else request.budget.missed(comparison)
    return problems if int8 else [*problems, *request.bounds.missed(comparison, job.output)]
