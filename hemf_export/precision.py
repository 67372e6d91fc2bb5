"""Float32 ONNX file + images → the FP16 or INT8 file that keeps its bound or budget, with its proof beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import budget, forms, int8, quiet, repair, selection
from calibration.agreement import Comparison, compare
from calibration.blocks import blocks
from calibration.budget import Budget
from calibration.cache import Cache
from calibration.forms import Rewriting
from calibration.graphs import prepare
from calibration.image_set import ImageSet
from calibration.int8 import MethodChoice, Plan
from calibration.job import Job, Listener
from calibration.products import Product
from calibration.qdq import Statistics
from calibration.trials import BATCH
from hemf import artifacts, locks
from hemf.errors import BadInputError, CheckFailedError, MissingCapabilityError
from hemf_export import (
    form_choice,
    graph_source,
    image_labels,
    int8_choice,
    model_kind,
    onnx_file,
    plausibility,
    precision_file,
    same_model,
)
from hemf_export.description import Description, Precision
from hemf_export.fp16 import Bounds
from hemf_export.graph_source import Assumptions
from hemf_export.int8_choice import Choice, EngineTrial, EngineTrials
from hemf_export.precision_file import Gain, Graph, Made
from hemf_export.trial_engine import Compiler, Step

_LEAST = f"{int8_choice.LEAST_GAIN:.0%}"
_COMPILED = 3  # graphs within the budget whose engines are compared
FEW_JUDGES = 64  # held-out images: a bound on logits, or figures alone, need fewer than a drop of half a point
BUDGET_JUDGES = 512
FP16_BUDGET = Budget(0.1)  # what an FP16 graph is brought to where that can be done; only one that is asked for must be


@dataclass(frozen=True)
class Request:
    """What to make; see `hemf-export calibrate --help`."""

    source: Path
    precision: Literal["fp16", "int8"]
    images: Path
    output: Path | None = None
    folder: Path | None = None  # of the file where `output` is not said; None for the source's
    held_out: Path | None = None
    count: int = selection.CALIBRATION_IMAGES
    judges: int | None = None
    seed: int = 0
    allow_single_class: bool = False
    method: MethodChoice = "auto"
    budget: Budget | None = None
    with_sensitivity: bool = False
    compiler: Compiler = field(default_factory=Compiler)
    bounds: Bounds = field(default_factory=Bounds)
    assumptions: Assumptions = field(default_factory=Assumptions)
    cache: Path | None = None


@locks.owning(lambda request, *_, **__: _outputs(request))
def make(request: Request, listener: Listener) -> Made:
    """Calibrate `request.source` and write the result.

    Raises:
        BadInputError: the file or the images.
        InUseError: another process makes that file.
        CheckFailedError: a bound or the budget is missed by every graph; nothing is left behind.
    """
    wanted: Precision = request.precision if request.compiler.form != "cpu" else "int8-cpu"
    if request.output is not None:
        artifacts.check_writable(request.output)
        artifacts.check_distinct(request.source, request.output)
    else:
        artifacts.check_folder(request.folder or request.source.parent)
    source = graph_source.read(request.source, request.assumptions)
    described, original = source.description, source.session()
    model = prepare(source.proto)
    source.proto.Clear()  # a second copy of all weights
    judges = request.judges or (FEW_JUDGES if request.budget is None else BUDGET_JUDGES)
    own_classes = described.classes if image_labels.are_names(described.classes) else None
    listener.phase("Choosing images", 0)
    chosen = selection.select(
        request.images, described.input, own_classes, held_out=request.held_out, count=request.count,
        seed=request.seed, allow_single_class=request.allow_single_class, batch=described.batch,
    )  # fmt: skip
    held_out = chosen.held_out.whole(judges)
    if own_classes is None:
        images, more = image_labels.match(held_out.images, described.classes)
        held_out = dataclasses.replace(held_out, images=images)
        chosen = dataclasses.replace(chosen, notes=(*chosen.notes, *more))
    chosen = dataclasses.replace(chosen, held_out=held_out)
    form, ours = request.compiler.form, onnx_file.is_ours(request.source)
    choice = form_choice.choose(model, request.compiler, described, ours=ours, step=_phases(listener))
    rewriting = forms.rewrite(model, form, only=choice.among(forms.first(form)))
    job = Job(model, original, source.sha256, chosen, Cache(request.cache), listener, rewriting)
    notes = [
        *source.notes,
        *([choice.note] if choice.note else []),
        *chosen.notes,
        *same_model.require(job),
        *_doubts(request, job),
    ]
    last = choice.among(forms.last(form))
    graph = _cpu(request, job) if form == "cpu" else _float16(request, job, described, last)
    path = request.output or _default_output(request, graph.precision)
    artifacts.check_writable(path)
    artifacts.check_distinct(request.source, path)
    notes += [*job.cache.notes, *(graph.plan.notes if graph.plan else ()), *graph.notes]
    notes += _verdict(request, wanted, graph)
    return precision_file.write(path, request.source, job, described, graph, request.budget, tuple(notes))


def _phases(listener: Listener) -> Step:
    @contextmanager
    def step(text: str) -> Iterator[None]:
        listener.phase(text, 0)
        yield

    return step


def _doubts(request: Request, job: Job) -> tuple[str, ...]:
    """What the float32 file makes of some labelled images, told before hours of work; nothing where that is sound."""
    if job.selection.held_out.labels is None:
        return ()
    images = job.selection.held_out  # what it gives of them is the reference of all that follows
    job.listener.phase("Looking at the float32 file", len(images))
    scores = job.reference(images, job.listener.advance)
    found = plausibility.look(images.images, scores, images.taken, job.original.logits, images.batch or BATCH)
    found = tuple(f"{request.source.name}: {text}" for text in found)
    for text in found:
        job.listener.note(text)
    return found


def _float16(request: Request, job: Job, described: Description, last: Collection[str]) -> Graph:
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
    engines = EngineTrials(job.model, products, islands, compiler, last=last, step=_phases(job.listener))
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
    return dataclasses.replace(graph, gain=Gain(choice, proofs.beside(choice, graph)))


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
            CheckFailedError: it misses a bound or the budget.
        """
        return self.first([products])

    def first(
        self, candidates: Sequence[tuple[Product, ...]], accept: Callable[[Graph], bool] = lambda graph: True
    ) -> Graph:
        """The first of some sets of products in INT8 whose graph holds and is accepted.

        Raises:
            CheckFailedError: none does.
        """
        for products in candidates:
            graph = self._graph(products)
            if graph is not None and accept(graph):
                return graph
        raise CheckFailedError(
            f"{self._request.source.name} in {'INT8' if candidates[-1] else 'FP16'}: {'; '.join(self._missed)} "
            f"({len(self._job.selection.held_out)} held-out images).",
            "No file was kept. The float32 file keeps its figures; to allow more, see --help.",
        )

    def beside(self, choice: Choice, graph: Graph) -> dict[str, Comparison]:
        """Figures of FP16, of the chosen engine, of the fastest in INT8 and of all in INT8, on the same few images.

        FP16 and the chosen one have float16 emulated; of others only their INT8 is, and float32 is between.
        """
        assert self._plan is not None
        job, few = self._job, self._trials.first
        job.listener.phase("Measuring what was not chosen", 0)
        reference = job.reference(few, job.listener.advance)

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
        request, job, judges = self._request, self._job, self._job.selection.held_out
        job.listener.phase("Proving on held-out images", len(judges) * 2)
        reference = self._trials.reference

        def problems(logits: NDArray[np.float32]) -> list[str]:
            found = compare(logits, reference, judges.labels, output=job.output)
            return _missed(request, found, reference, job, int8=bool(products))

        def calm(logits: NDArray[np.float32]) -> bool:
            found = compare(logits, reference, judges.labels, output=job.output)
            asked = request.budget is not None and request.precision == "fp16"
            return asked or bool(products) or not FP16_BUDGET.missed(found)

        made, rewriting = self._convert(products, judges, reference, lambda logits: not problems(logits), calm)
        self._missed = problems(made.logits)
        if self._missed:
            return None
        plan = None if self._plan is None else dataclasses.replace(self._plan, chosen=products)
        found = compare(made.logits, reference, judges.labels, output=job.output)
        kind: Precision = "int8" if products else "fp16"
        return Graph(made.model, kind, made.logits, reference, found, made.conversion, plan, rewriting)

    def _convert(
        self,
        products: tuple[Product, ...],
        images: ImageSet,
        reference: NDArray[np.float32],
        holds: Callable[[NDArray[np.float32]], bool],
        calm: Callable[[NDArray[np.float32]], bool],
    ) -> tuple[repair.Mended, Rewriting]:
        """The FP16 graph with `products` in INT8, mended until it holds."""
        job = self._job
        variant = self._trials.build(products, "max" if self._plan is None else self._plan.method)
        if not products:
            _round_weights(variant, job)
        rewriting = job.rewriting + forms.rewrite(variant, self._request.compiler.form, only=self._last)
        made = repair.convert(
            variant, self._islands, images, reference, holds, calm=calm,
            noisy=_noisy(job, variant, wanted=not products), progress=job.listener.advance, output=job.output,
        )  # fmt: skip
        return made, rewriting


def _round_weights(model: ir.Model, job: Job) -> None:
    """Give a copy of the job's graph weights that float16 has exactly."""
    for name, weight in job.float16_weights().items():
        model.graph.initializers[name].const_value = ir.Tensor(weight.astype(np.float32), name=name)
    job.listener.phase("Proving in float16", len(job.selection.held_out))


def _noisy(job: Job, model: ir.Model, *, wanted: bool) -> Callable[[dict[str, str]], list[str]]:
    """Looks for the blocks that make float16's noise, on calibration images; INT8's own noise is above it."""

    def found(islands: dict[str, str]) -> list[str]:
        if not wanted:
            return []
        where = blocks(model.graph)
        images = job.selection.calibration.whole(max(quiet.IMAGES, job.selection.calibration.batch or 1))
        job.listener.phase("Looking for the blocks that make the noise", len(images) * (len(set(where.values())) + 1))
        order = quiet.by_noise(model, islands, where, images, job.listener.advance, output=job.output)
        job.listener.phase("Proving with less noise", len(job.selection.held_out) * quiet.MOST)
        return order

    return found


def _cpu(request: Request, job: Job) -> Graph:
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
            "To allow more, see --max-drop and --min-agreement.",
        )
    judges = job.selection.held_out
    trials = job.trials(plan.statistics, judges, plan.place)
    job.listener.phase("Proving on held-out images", len(judges) * 2)
    proven = trials.run(plan.chosen, plan.method)
    found = compare(proven, trials.reference, judges.labels, output=job.output)
    if missed := _missed(request, found, trials.reference, job, int8=True):
        raise CheckFailedError(f"{request.source.name} in INT8 for a CPU: {'; '.join(missed)}.", "No file was kept.")
    model = trials.build(plan.chosen, plan.method)
    return Graph(model, "int8-cpu", proven, trials.reference, found, None, plan, job.rewriting)


def _missed(request: Request, found: Comparison, reference: NDArray[np.float32], job: Job, *, int8: bool) -> list[str]:
    """List, in words, the limits that a graph's figures miss: the budget, and in FP16 the bounds too."""
    if not found.finite:
        return ["logits that are not finite"]
    problems = [] if request.budget is None else request.budget.missed(found)
    if int8:
        return problems
    bound = request.bounds.score_bound(job.output, float(np.abs(reference).max()))
    if not found.max_difference <= bound:
        problems.append(
            f"a {job.output.noun} differs by {found.max_difference:.3g}, bound {bound:.3g} (--max-logit-diff)"
        )
    least = request.bounds.agreement_of(found.images)
    if found.agreement < least:
        problems.append(f"{found.agreement:.2%} keep their class, bound {least:.2%} (--min-agreement)")
    return problems


def _verdict(request: Request, wanted: Precision, graph: Graph) -> list[str]:
    doubts = []
    asked = request.budget is not None and request.precision == "fp16"
    if graph.precision == "fp16" and not asked and FP16_BUDGET.missed(graph.comparison):
        likely = FP16_BUDGET.likely_drop(graph.comparison)
        doubts.append(
            f"FP16 may lose up to {likely:.2f} points on other images: many lie close to the border of two classes."
        )
    if wanted == graph.precision:
        return doubts
    start = "The answer is FP16, and that is what was written"
    if graph.gain is None:
        return [*doubts, f"{start}: no INT8 graph that is worth it keeps the budget."]
    summary = graph.gain.choice.summary
    if not graph.gain.choice.worthwhile:
        return [*doubts, f"{start}: {summary}. INT8 must be at least {_LEAST} faster to be worth its loss of digits."]
    steps = graph.plan.steps if graph.plan is not None else ()
    missed = request.budget.missed(steps[0].found) if request.budget is not None and steps else []
    tells = f" All that is faster in INT8 together: {'; '.join(missed)}." if missed else ""
    return [*doubts, f"{start}: {summary}, but no engine that is {_LEAST} faster keeps the budget.{tells}"]


def _outputs(request: Request) -> list[Path]:
    """Where the result may come to lie: a search for INT8 may end with FP16."""
    if request.output is not None:
        return [request.output]
    if request.compiler.form == "cpu":
        return [_default_output(request, "int8-cpu")]
    kinds: tuple[Precision, ...] = ("int8", "fp16") if request.precision == "int8" else ("fp16",)
    return [_default_output(request, kind) for kind in kinds]


def _default_output(request: Request, precision: Precision) -> Path:
    folder = request.folder or request.source.parent
    return folder / f"{model_kind.stem(request.source)}.{precision}.onnx"
