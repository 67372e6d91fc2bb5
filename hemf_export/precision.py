"""Float32 ONNX file + images → the FP16 or INT8 file that keeps its bound or budget, with its proof beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
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
from hemf.errors import CheckFailedError, HemfError
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
from hemf_export.int8_choice import Choice
from hemf_export.precision_file import Gain, Graph, Made
from hemf_export.trial_engine import Compiler

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


def _phases(listener: Listener) -> form_choice.Step:
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
        return _Proofs(request, job, islands, last).first([()])
    products = int8.products_of(job, islands)
    if request.budget is None:
        plan = int8.plan(job, products, method=request.method, with_sensitivity=request.with_sensitivity)
        return _Proofs(request, job, islands, last, plan).first([plan.chosen])
    batch = described.batch or request.compiler.batch
    engines = int8_choice.Trials(
        job.model, products, islands, request.compiler, batch, last=last, step=_phases(job.listener)
    )
    choice, notes = None, []
    try:
        choice = int8_choice.choose(engines)
    except HemfError as error:
        notes.append(f"INT8 goes by its share of the work, as no engine can be compared here: {error.message}")
    worthwhile = choice is None or choice.worthwhile
    plan = int8.plan(
        job, products, method=request.method, budget=request.budget if worthwhile else None,
        worth=choice.worth if choice is not None and worthwhile else None, with_sensitivity=request.with_sensitivity,
    )  # fmt: skip
    proofs = _Proofs(request, job, islands, last, plan)
    graph = proofs.first(_candidates(plan, choice))
    if choice is None:
        return dataclasses.replace(graph, notes=tuple(notes))
    assert graph.plan is not None
    chosen = engines.run("the budget's blocks", graph.plan.chosen)
    if not worthwhile:
        refused = int8.refusing(graph.plan.products, ())
        graph = dataclasses.replace(graph, plan=dataclasses.replace(graph.plan, products=refused))
    choice = dataclasses.replace(choice, chosen=chosen)
    return dataclasses.replace(graph, gain=Gain(choice, proofs.beside(choice, graph)))


def _candidates(plan: Plan, choice: Choice | None) -> Iterator[tuple[Product, ...]]:
    """The sets of products that keep the budget, the best first, and none of them at last.

    Where engines can be compared, a set is one only if the engine with it is enough faster than FP16.
    """
    for step in budget.kept_steps(plan.steps, plan.worth):
        products = plan.products_of(step.blocks)
        if choice is None or choice.is_worthwhile(choice.trials.run("the budget's blocks", products)):
            yield products
    yield ()


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
        self,
        request: Request,
        job: Job,
        islands: dict[str, str],
        last: Collection[str],
        plan: Plan | None = None,
    ) -> None:
        self._request, self._job, self._islands, self._last, self._plan = request, job, islands, last, plan
        self._trials = job.trials(Statistics() if plan is None else plan.statistics, job.selection.held_out)

    def first(self, candidates: Iterable[tuple[Product, ...]]) -> Graph:
        """The first of some sets of products in INT8 whose graph holds.

        Raises:
            CheckFailedError: none does.
        """
        request, job, judges = self._request, self._job, self._job.selection.held_out
        job.listener.phase("Proving on held-out images", len(judges) * 2)
        reference = self._trials.reference
        missed: list[str] = []
        for products in candidates:

            def problems(logits: NDArray[np.float32]) -> list[str]:
                return _missed(request, compare(logits, reference, judges.labels, output=job.output), reference, job)

            def calm(logits: NDArray[np.float32]) -> bool:
                found = compare(logits, reference, judges.labels, output=job.output)
                return request.budget is not None or not FP16_BUDGET.missed(found)

            made, rewriting = self._convert(products, judges, reference, lambda logits: not problems(logits), calm)
            missed = problems(made.logits)
            if not missed:
                plan = None if self._plan is None else dataclasses.replace(self._plan, chosen=products)
                found = compare(made.logits, reference, judges.labels, output=job.output)
                kind: Precision = "int8" if products else "fp16"
                return Graph(made.model, kind, made.logits, reference, found, made.conversion, plan, rewriting)
        raise CheckFailedError(
            f"{request.source.name} in {'INT8' if products else 'FP16'}: {'; '.join(missed)} "
            f"({len(judges)} held-out images).",
            "No file was kept. The float32 file keeps its figures; to allow more, see --help.",
        )

    def beside(self, choice: Choice, graph: Graph) -> dict[str, Comparison]:
        """The figures of FP16, of the chosen engine, of the fastest in INT8 and of everything in INT8.

        What isn't the chosen graph is measured on the first of the held-out images.
        """
        assert self._plan is not None
        method = self._plan.method
        found = {"fp16": graph.comparison, "chosen": graph.comparison}
        self._job.listener.phase("Measuring what was not chosen", 0)
        for name, trial in (("best", choice.best), ("all_int8", choice.everything)):
            products = [product for product in choice.trials.products if product.node in trial.nodes]
            found[name] = self._trials.compare(products, method, lambda found, images: True)
        if choice.chosen is choice.best:
            found["best"] = graph.comparison
        if graph.precision != "fp16":
            found["fp16"] = self._figures_of_fp16(found["all_int8"].images)
        return found

    def _figures_of_fp16(self, images: int) -> Comparison:
        job = self._job
        few = job.selection.held_out.whole(images)
        job.listener.phase("Measuring FP16", 2 * len(few))
        reference = job.reference(few, job.listener.advance)
        made, _ = self._convert((), few, reference, lambda logits: True, lambda logits: True)
        return compare(made.logits, reference, few.labels, output=job.output)

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
    plan = int8.plan(
        job, int8.products_of(job, for_cpu=True), method=request.method, budget=request.budget,
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
    if missed := _missed(request, found, trials.reference, job):
        raise CheckFailedError(f"{request.source.name} in INT8 for a CPU: {'; '.join(missed)}.", "No file was kept.")
    model = trials.build(plan.chosen, plan.method)
    return Graph(model, "int8-cpu", proven, trials.reference, found, None, plan, job.rewriting)


def _missed(request: Request, found: Comparison, reference: NDArray[np.float32], job: Job) -> list[str]:
    """What a graph's figures miss, in words: the budget of INT8, or the bounds of FP16."""
    if not found.finite:
        return ["logits that are not finite"]
    problems = [] if request.budget is None else request.budget.missed(found)
    if request.precision == "int8":
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
    if graph.precision == "fp16" and request.budget is None and FP16_BUDGET.missed(graph.comparison):
        likely = FP16_BUDGET.likely_drop(graph.comparison)
        return [
            f"FP16 may lose up to {likely:.2f} points on other images: many lie close to the border of two classes."
        ]
    if wanted == graph.precision or graph.plan is None:
        return []
    if graph.gain is not None and not graph.gain.choice.worthwhile:
        return [
            f"The answer is FP16, and that is what was written: {graph.gain.choice.summary}. INT8 must be at least "
            f"{int8_choice.LEAST_GAIN:.0%} faster to be worth its loss of digits."
        ]
    return ["No INT8 graph that is worth it keeps the budget: the answer is FP16, and that is what was written."]


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
