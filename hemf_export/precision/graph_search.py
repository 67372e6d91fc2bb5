"""Search for the FP16 or INT8 graph that keeps its bounds or budget, and prove it on held-out images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from hemf_export.precision.quantize import Request

_COMPILED = 3  # graphs within the budget whose engines are compared
FP16_BUDGET = Budget(0.1)  # what an FP16 graph is brought to where that can be done; only one that is asked for must be


def for_gpu(request: Request, job: Job, described: Description, last: Collection[str]) -> Graph:
    """The FP16 graph, or the INT8 one in FP16, proven as it is shipped.

    `last` are the passes that come after quantization.
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
    """The fastest engine's graph that keeps the budget: INT8 where that is enough faster, else FP16."""
    if all(product.refusal is not None for product in products):
        graph = _Proofs(request, job, islands, last).prove(())
        return dataclasses.replace(graph, notes=("The graph has no product that INT8 can be used for.",))
    compiler = request.compiler.for_batch(described.batch)
    engines = EngineTrials(job.model, products, islands, compiler, last=last, progress=job.progress)
    try:
        choice = int8_choice.choose(engines)
    except (MissingCapabilityError, BadInputError) as error:  # no such backend here, or it can't build the graph at all
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
    # FP16 stays what INT8 was compared with: one with other nodes in float32 would change a verdict that was acted on.
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
    """The sets of products that keep the budget and whose engine is enough faster than FP16, the fastest first."""
    found: list[tuple[float, int, tuple[Product, ...]]] = []
    for step in budget.kept_steps(plan.steps, plan.worth)[:_COMPILED]:
        products = plan.products_of(step.blocks)
        trial = choice.trials.attempt(f"{len(step.blocks)} blocks within the budget", products)
        if trial is not None and choice.is_worthwhile(trial):
            found.append((trial.model_ms, len(found), products))
    return [products for _, _, products in sorted(found, key=lambda each: each[:2])]


def _compiled(engines: EngineTrials, graph: Graph) -> EngineTrial:
    """The engine of a proven graph, with the nodes in float32 that its proof asked for."""
    chosen = graph.plan.chosen if graph.plan is not None else ()
    islands = graph.conversion.islands if graph.conversion is not None else {}
    return engines.run("what was proven", chosen, islands)


class _Proofs:
    """Makes FP16 graphs with some products in INT8, and proves them on the held-out images.

    Args:
        request: with the bounds or the budget.
        job: the float32 graph and its images.
        islands: nodes that stay in float32.
        last: names of the passes that come after quantization.
        plan: of INT8; None for FP16 alone.
    """

    def __init__(
        self, request: Request, job: Job, islands: dict[str, str], last: Collection[str], plan: Plan | None = None
    ) -> None:
        self._request, self._job, self._islands, self._last, self._plan = request, job, islands, last, plan
        self._trials = job.trials(Statistics() if plan is None else plan.statistics, job.selection.held_out)
        self._missed: list[str] = []

    def prove(self, products: tuple[Product, ...]) -> Graph:
        """The graph with these products in INT8.

        Raises:
            BoundMissedError: it misses a bound or the budget.
        """
        return self.first([products])

    def first(
        self, candidates: Sequence[tuple[Product, ...]], accept: Callable[[Graph], bool] = lambda graph: True
    ) -> Graph:
        """The first of some sets of products in INT8 whose graph holds and is accepted.

        Raises:
            BoundMissedError: none does.
        """
        for products in candidates:
            graph = self._graph(products)
            if graph is not None and accept(graph):
                return graph
        what = f"{self._request.source.name} in {'INT8' if candidates[-1] else 'FP16'}"
        raise BoundMissedError(what, self._missed, f"{len(self._job.selection.held_out)} held-out images")

    def beside(self, choice: Choice, graph: Graph) -> dict[str, Comparison]:
        """Figures of FP16, of the chosen engine, of the fastest in INT8 and of all in INT8, on the same few images.

        FP16 and the chosen one have float16 emulated; of others only their INT8 is, and float32 is between.
        """
        assert self._plan is not None
        job, few = self._job, self._trials.first
        reference = job.reference(few)

        def figures(logits: NDArray[np.float32]) -> Comparison:
            return compare(logits, reference, few.labels, output=job.output)

        places = {path: place for place, path in enumerate(job.selection.held_out.images.paths)}
        found = {"chosen": figures(graph.logits[[places[path] for path in few.images.paths]])}
        for name, trial in (("best", choice.best), ("all_int8", choice.everything)):
            if trial is not None and trial.nodes == choice.chosen.nodes:
                found[name] = found["chosen"]
            elif trial is not None:
                products = [product for product in choice.trials.products if product.node in trial.nodes]
                found[name] = self._trials.compare(products, self._plan.method, lambda found, images: True)
        if graph.precision == "fp16":
            return {**found, "fp16": found["chosen"]}
        made, _ = self._convert((), few, reference, lambda logits: True, lambda logits: True)
        return {**found, "fp16": figures(made.logits)}

    def _graph(self, products: tuple[Product, ...]) -> Graph | None:
        """The proven graph with these products in INT8; None where it misses something, which is kept."""
        with self._job.progress.task("Proving on held-out images"):
            return self._proven(products)

    def _proven(self, products: tuple[Product, ...]) -> Graph | None:
        request, job, judges = self._request, self._job, self._job.selection.held_out
        reference = self._trials.reference

        def problems(logits: NDArray[np.float32]) -> list[str]:
            found = compare(logits, reference, judges.labels, output=job.output)
            return _missed(request, found, job, int8=bool(products))

        def close_enough(logits: NDArray[np.float32]) -> bool:
            found = compare(logits, reference, judges.labels, output=job.output)
            asked = request.budget is not None and request.precision == "fp16"
            return asked or bool(products) or not FP16_BUDGET.missed(found)

        made, rewriting = self._convert(products, judges, reference, lambda logits: not problems(logits), close_enough)
        self._missed = problems(made.logits)
        if self._missed:
            return None
        plan = None if self._plan is None else dataclasses.replace(self._plan, chosen=products)
        found = compare(made.logits, reference, judges.labels, output=job.output)
        kind: Precision = "int8" if products else "fp16"
        bound = None if products else request.bounds.score_bound(job.output, found.largest_logit)
        return Graph(made.model, kind, made.logits, reference, found, made.conversion, plan, rewriting, bound)

    def _convert(
        self,
        products: tuple[Product, ...],
        images: ImageSet,
        reference: NDArray[np.float32],
        holds: Callable[[NDArray[np.float32]], bool],
        close_enough: Callable[[NDArray[np.float32]], bool],
    ) -> tuple[repair.Mended, Rewriting]:
        """The FP16 graph with `products` in INT8, mended until it holds."""
        job = self._job
        variant = self._trials.build(products, "max" if self._plan is None else self._plan.method)
        if not products:
            _round_weights(variant, job)
        rewriting = job.rewriting + forms.rewrite(variant, self._request.compiler.form, only=self._last)
        made = repair.convert(
            variant, self._islands, images, reference, holds, close_enough=close_enough,
            noisy=_noisy(job, variant, wanted=not products), progress=job.progress, output=job.output,
        )  # fmt: skip
        return made, rewriting


def _round_weights(model: ir.Model, job: Job) -> None:
    """Give a copy of the job's graph weights that float16 has exactly."""
    for name, weight in job.float16_weights().items():
        model.graph.initializers[name].const_value = ir.Tensor(weight.astype(np.float32), name=name)


def _noisy(job: Job, model: ir.Model, *, wanted: bool) -> Callable[[dict[str, str]], list[str]]:
    """Looks for the blocks that make float16's noise, on calibration images; INT8's own noise is above it."""

    def found(islands: dict[str, str]) -> list[str]:
        if not wanted:
            return []
        where = blocks(model.graph)
        images = job.selection.calibration.whole(max(repair.NOISE_IMAGES, job.selection.calibration.batch or 1))
        return repair.noisy_blocks(model, islands, where, images, job.progress, output=job.output)

    return found


def for_cpu(request: Request, job: Job) -> Graph:
    """INT8 with float32 in between: the very graph of the search is shipped."""
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
    judges = job.selection.held_out
    trials = job.trials(plan.statistics, judges, plan.place)
    with job.progress.task("Proving on held-out images"):
        proven = trials.run(plan.chosen, plan.method)
        found = compare(proven, trials.reference, judges.labels, output=job.output)
    if missed := _missed(request, found, job, int8=True):
        what = f"{request.source.name} in INT8 for a CPU"
        raise BoundMissedError(what, missed, f"{len(judges)} held-out images")
    model = trials.build(plan.chosen, plan.method)
    return Graph(model, "int8-cpu", proven, trials.reference, found, None, plan, job.rewriting)


def _missed(request: Request, found: Comparison, job: Job, *, int8: bool) -> list[str]:
    """List, in words, the limits that a graph's figures miss: the budget, and in FP16 the bounds too."""
    if not found.finite:
        return ["logits that are not finite"]
    problems = [] if request.budget is None else request.budget.missed(found)
    return problems if int8 else [*problems, *request.bounds.missed(found, job.output)]
