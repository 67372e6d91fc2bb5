"""Float32 ONNX file → the FP16 or INT8 file that keeps its bound or budget, with its proof beside it.

With images, float32 stays where the ranges measured on them ask for it, and held-out images prove the graph. Without,
it stays wherever the structure of the graph could ask for it, and seeded noise proves it; INT8 needs images.

`earlier_file` says what becomes of a file that lies there already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import budget, forms, image_set, int8, repair
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.cache import Cache
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.image_set import ImageSet, Selection
from hemf_export.calibration.int8 import MethodChoice, Plan
from hemf_export.calibration.job import Job
from hemf_export.calibration.products import Product
from hemf_export.calibration.qdq import Statistics
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import BATCH
from hemf_export.export.parity import Samples
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, CheckFailedError, MissingCapabilityError, UsageError
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import image_labels
from hemf_export.metrics.comparison import Comparison, compare
from hemf_export.models import graph_source, model_file, plausibility, proof
from hemf_export.models.description import Description, Precision
from hemf_export.models.graph_source import Assumptions, Source
from hemf_export.models.onnx_file import OnnxFile
from hemf_export.models.proof import ImageRecord
from hemf_export.precision import earlier_file, form_choice, graph_file, int8_choice, same_model
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.earlier_file import Recipe
from hemf_export.precision.graph_file import Gain, Graph, Origin, QuantizedFile
from hemf_export.precision.int8_choice import Choice, EngineTrial, EngineTrials
from hemf_export.precision.trial_engine import Compiler

_LEAST = f"{int8_choice.LEAST_GAIN:.0%}"
_COMPILED = 3  # graphs within the budget whose engines are compared
NOISE_IMAGES = 8  # that a graph made by structure alone is proven on
FEW_JUDGES = 64  # held-out images: a bound on logits, or figures alone, need fewer than a drop of half a point
BUDGET_JUDGES = 512
FP16_BUDGET = Budget(0.1)  # what an FP16 graph is brought to where that can be done; only one that is asked for must be


class BoundMissedError(CheckFailedError):
    """No graph keeps the bounds or the budget."""


@dataclass(frozen=True)
class Request:
    """What to make of a float32 file.

    Args:
        source: the file, ours or another's.
        precision: fp16, or int8, whose answer within a budget may be FP16.
        images: to measure ranges and to prove on, see `calibration.image_set.select`; None for FP16 by structure.
        output: None for NAME.PRECISION.onnx in `folder`.
        folder: None for the source's.
        held_out: other images to prove on.
        count: of calibration images, at most.
        judges: of held-out images, at most; None for `FEW_JUDGES`, or `BUDGET_JUDGES` for a budget.
        seed: of the choice of images.
        allow_single_class: calibrate on images of one class only.
        method: of INT8's ranges.
        budget: what may be lost; None for no such limit.
        with_sensitivity: measure every block alone and left out, without a budget too.
        compiler: what the graph is for.
        bounds: of FP16.
        assumptions: about a file that isn't ours.
        cache: folder of earlier results; None for none.
        force: replace a file that was made otherwise.
        reuse: take a file that lies there, if it was made from the same file by the options that are asked for.
    """

    source: Path
    precision: Literal["fp16", "int8"] = "fp16"
    images: Path | None = None
    output: Path | None = None
    folder: Path | None = None
    held_out: Path | None = None
    count: int = image_set.CALIBRATION_IMAGES
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
    force: bool = False
    reuse: bool = False

    def __post_init__(self) -> None:
        if self.images is None and (self.precision == "int8" or self.budget is not None):
            what = "INT8" if self.precision == "int8" else "A budget"
            raise UsageError(f"{what} needs real images: ranges and accuracy are measured on them.")

    @property
    def asked(self) -> Precision:
        """The precision that is asked for."""
        return "int8-cpu" if self.compiler.form == "cpu" and self.precision == "int8" else self.precision

    def place(self, precision: Precision) -> Path:
        """Where a file of this precision goes."""
        folder = self.folder or self.source.parent
        return self.output or folder / f"{model_file.stem(self.source)}.{precision}.onnx"

    @property
    def places(self) -> list[Path]:
        """Where the result may come to lie: a search for INT8 may end with FP16."""
        kinds: tuple[Precision, ...] = ("int8", "fp16") if self.asked == "int8" else (self.asked,)
        return list(dict.fromkeys(map(self.place, kinds)))


@locks.owning(lambda request, *_, **__: request.places)
def make(request: Request, progress: Progress = SILENT) -> QuantizedFile:
    """Quantize `request.source` and write the result.

    Raises:
        BadInputError: the file or the images.
        WouldReplaceError: a file that was made otherwise lies there.
        InUseError: another process makes that file.
        BoundMissedError: every graph misses a bound or the budget; nothing is left behind.
    """
    if request.output is not None:
        artifacts.check_writable(request.output)
    else:
        artifacts.check_folder(request.folder or request.source.parent)
    for path in request.places:
        artifacts.check_distinct(request.source, path)
    source = graph_source.read(request.source, request.assumptions)
    if request.images is None:
        return _by_structure(request, source, progress)
    return _by_measurement(request, source, progress)


def _by_structure(request: Request, source: Source, progress: Progress) -> QuantizedFile:
    """FP16 with float32 wherever the structure of the graph could ask for it, proven on seeded noise."""
    described, output = source.description, source.description.output
    # A fixed batch takes whole batches only.
    count = NOISE_IMAGES if described.batch is None else max(1, NOISE_IMAGES // described.batch) * described.batch
    noise = Samples(described.input, None, count)
    record = ImageRecord(noise.source, count, noise=True)
    recipe = _recipe(request, source, None, record)
    if (earlier := _earlier(request, recipe)) is not None:
        return earlier
    batch = described.batch or BATCH
    inputs = [described.input.network(pixels) for pixels in noise.pixels((batch,) * -(-count // batch))]
    original = source.session()
    model = prepare(source.proto)
    source.proto.Clear()  # a second copy of all weights
    choice, form = _form(request, model, described, progress), request.compiler.form
    rewriting = forms.rewrite(model, form, only=choice.passes)
    same = same_model.require(model, original, inputs[:1], alone=described.batch is None)
    origin = Origin(source, recipe, record, None, blocks(model.graph), choice, same)
    with progress.task("Proving float16 against float32", 2 * count, "images") as task:
        conversion = to_float16(model)
        emulated = Session(emulate(model), output=output)
        scores: list[NDArray[np.float32]] = []
        for session in (original, emulated):
            parts = []
            for pixels in inputs:
                parts.append(session.logits(pixels))
                task.advance(len(pixels))
            scores.append(np.concatenate(parts))
    reference, logits = scores
    comparison = compare(logits, reference, None, output=output)
    bound = request.bounds.score_bound(output, comparison.largest_logit)
    if problems := _beyond(request, comparison, bound, output, noise=True):
        raise _bound_missed(f"{request.source.name} in FP16", problems, str(record))
    graph = Graph(model, "fp16", logits, reference, comparison, conversion, None, rewriting, bound)
    notes = (*source.notes, *_note_of(choice), *same.notes)
    return graph_file.write(request.place("fp16"), origin, graph, inputs, notes)


def _by_measurement(request: Request, source: Source, progress: Progress) -> QuantizedFile:
    """FP16 or INT8 by ranges that are measured on calibration images, proven on held-out ones."""
    described = source.description
    chosen = _select(request, described, progress)
    records = [ImageRecord.from_dict(images.to_dict()) for images in (chosen.calibration, chosen.held_out)]
    recipe = _recipe(request, source, *records)
    if (earlier := _earlier(request, recipe)) is not None:
        return earlier
    original = source.session()
    model = prepare(source.proto)
    source.proto.Clear()
    choice, form = _form(request, model, described, progress), request.compiler.form
    rewriting = forms.rewrite(model, form, only=choice.among(forms.first(form)))
    job = Job(model, original, source.sha256, chosen, Cache(request.cache), progress, rewriting)
    few = chosen.held_out.whole(max(same_model.IMAGES, chosen.held_out.batch or 1))
    same = same_model.require(model, original, list(few.batches(BATCH)), alone=few.batch is None)
    origin = Origin(source, recipe, records[1], records[0], blocks(model.graph), choice, same, request.budget)
    notes = [*source.notes, *_note_of(choice), *chosen.notes, *same.notes, *_doubts(request, job)]
    last = choice.among(forms.last(form))
    graph = _cpu(request, job) if request.asked == "int8-cpu" else _float16(request, job, described, last)
    path = request.place(graph.precision)
    artifacts.check_writable(path)
    notes += [*job.cache.notes, *(graph.plan.notes if graph.plan else ()), *graph.notes]
    notes += _verdict(request, graph)
    return graph_file.write(path, origin, graph, chosen.held_out.batches(BATCH), tuple(notes))


def _select(request: Request, described: Description, progress: Progress) -> Selection:
    """The images to calibrate on and those to prove on."""
    assert request.images is not None
    judges = request.judges or (FEW_JUDGES if request.budget is None else BUDGET_JUDGES)
    own_classes = described.classes if image_labels.are_names(described.classes) else None
    with progress.task("Choosing images"):
        chosen = image_set.select(
            request.images, described.input, own_classes, held_out=request.held_out, count=request.count,
            seed=request.seed, allow_single_class=request.allow_single_class, batch=described.batch,
        )  # fmt: skip
    held_out, notes = chosen.held_out.whole(judges), chosen.notes
    if own_classes is None:
        images, more = image_labels.match(held_out.images, described.classes)
        held_out, notes = dataclasses.replace(held_out, images=images), (*notes, *more)
    return dataclasses.replace(chosen, held_out=held_out, notes=notes)


def _recipe(request: Request, source: Source, calibration: ImageRecord | None, held_out: ImageRecord) -> Recipe:
    """All that changes the file or its proof."""
    compiler, described = request.compiler, source.description.to_dict()
    options: dict[str, Any] = {
        "precision": request.asked,
        "for": compiler.form,
        "tune": compiler.tune,
        **request.bounds.to_dict(),
        "budget": None if request.budget is None else request.budget.to_dict(),
        "calibration_images": None if calibration is None else calibration.to_dict(),
        "held_out_images": held_out.to_dict(),
        **{name: described[name] for name in ("preprocess", "classes", "output_type")},
    }
    if request.precision == "int8":
        options["method"] = request.method
    tries_forms = compiler.form != "cpu" and (compiler.tune or not OnnxFile.open(request.source).is_ours)
    if tries_forms or (request.asked == "int8" and request.budget is not None):  # engines for it are compared
        options |= {"target": compiler.target.sm, "batch": compiler.batch}
    return Recipe(request.source.name, source.sha256, options)


# What the FP16 file that a search for INT8 ends with shares with an FP16 file that was asked for.
_SAME_FP16 = (
    *("for", "calibration_images", "max_logit_difference", "min_agreement", "preprocess", "classes", "output_type"),
)


def _earlier(request: Request, recipe: Recipe) -> QuantizedFile | None:
    """A file that lies there and may be used again; None where one is to be made.

    Raises:
        WouldReplaceError: a file that was made otherwise lies where one may be written.
    """
    if request.force:
        return None
    if request.reuse:
        counts = _asked(request) if request.precision == "fp16" else None
        for path in request.places:
            if earlier_file.is_made_by(path, recipe, only=counts) and (file := _kept(request, path)) is not None:
                return file
    searches = request.asked == "int8" and request.budget is not None
    for precision in (request.asked, *(("fp16",) if searches and request.output is None else ())):
        answer = precision != request.asked
        earlier_file.require_replaceable(request.place(precision), recipe, only=_SAME_FP16 if answer else None)
    return None


def _asked(request: Request) -> set[str]:
    """The options of an FP16 file that this request names: with none, any of the same source will do."""
    names = {"for"}
    if request.images is not None:
        names |= {"calibration_images", "preprocess", "classes", "output_type"}
    if request.judges is not None or request.held_out is not None:
        names.add("held_out_images")
    names |= {name for name, value in request.bounds.to_dict().items() if value is not None}
    if request.budget is not None:
        names.add("budget")
    if request.compiler.tune:
        names |= {"tune", "target", "batch"}
    return names


def _kept(request: Request, path: Path) -> QuantizedFile | None:
    """The file at `path`, if it has a proof and a precision that answers the request."""
    manifest = artifacts.read_manifest(path)
    try:
        evidence = proof.of_manifest(manifest)
    except BadInputError:
        return None
    if manifest is None or evidence is None:
        return None
    _, description = OnnxFile.open(path).read_ours()
    if description.precision not in (("fp16",) if request.precision == "fp16" else ("fp16", request.asked)):
        return None
    measured = evidence.calibration_images
    how = "float32 where its structure asks for it" if measured is None else f"ranges of {measured}"
    note = (
        f"{path} is there, made from this very {request.source.name} ({how}, proven on {evidence.images}): "
        "it is taken as it is."
    )
    return QuantizedFile(path, description, evidence, manifest, (note,), reused=True)


def _form(request: Request, model: ir.Model, described: Description, progress: Progress) -> form_choice.Choice:
    ours = OnnxFile.open(request.source).is_ours
    return form_choice.choose(model, request.compiler, described, ours=ours, progress=progress)


def _note_of(choice: form_choice.Choice) -> tuple[str, ...]:
    return () if choice.note is None else (choice.note,)


def _doubts(request: Request, job: Job) -> tuple[str, ...]:
    """What the float32 file makes of some labelled images, told before hours of work; nothing where that is sound."""
    if job.selection.held_out.labels is None:
        return ()
    images = job.selection.held_out  # what it gives of them is the reference of all that follows
    with job.progress.task("Looking at the float32 file"):
        scores = job.reference(images)
        found = plausibility.look(images.images, scores, images.taken, job.original.logits, images.batch or BATCH)
    found = tuple(f"{request.source.name}: {text}" for text in found)
    for text in found:
        job.progress.note(text)
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
        raise _bound_missed(what, self._missed, f"{len(self._job.selection.held_out)} held-out images")

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


def _cpu(request: Request, job: Job) -> Graph:
    """INT8 with float32 in between: the very graph of the search is shipped."""
    products = int8.products_of(job, for_cpu=True)
    int8.require_quantizable(products)
    plan = int8.plan(
        job, products, method=request.method, budget=request.budget,
        with_sensitivity=request.with_sensitivity, for_cpu=True,
    )  # fmt: skip
    if not plan.chosen:
        raise BoundMissedError(
            f"No INT8 graph of {request.source.name} for a CPU keeps the budget: the float32 file is the answer."
        )
    judges = job.selection.held_out
    trials = job.trials(plan.statistics, judges, plan.place)
    with job.progress.task("Proving on held-out images"):
        proven = trials.run(plan.chosen, plan.method)
        found = compare(proven, trials.reference, judges.labels, output=job.output)
    if missed := _missed(request, found, job, int8=True):
        what = f"{request.source.name} in INT8 for a CPU"
        raise _bound_missed(what, missed, f"{len(judges)} held-out images")
    model = trials.build(plan.chosen, plan.method)
    return Graph(model, "int8-cpu", proven, trials.reference, found, None, plan, job.rewriting)


def _missed(request: Request, found: Comparison, job: Job, *, int8: bool) -> list[str]:
    """List, in words, the limits that a graph's figures miss: the budget, and in FP16 the bounds too."""
    if not found.finite:
        return ["logits that are not finite"]
    problems = [] if request.budget is None else request.budget.missed(found)
    if int8:
        return problems
    bound = request.bounds.score_bound(job.output, found.largest_logit)
    return [*problems, *_beyond(request, found, bound, job.output)]


def _beyond(
    request: Request, found: Comparison, bound: float, output: ModelOutput, *, noise: bool = False
) -> list[str]:
    """List, in words, the bounds of FP16 that a graph's figures miss."""
    if not found.finite:
        return ["logits that are not finite"]
    problems, difference = [], found.logit_difference.max
    if not difference <= bound:
        problems.append(f"a {output.noun} differs by {difference:.3g}, bound {bound:.3g}")
    least = request.bounds.least_agreement(found.images, noise=noise)
    if found.agreement < least:
        problems.append(f"{found.agreement:.2%} keep their class, bound {least:.2%}")
    return problems


def _bound_missed(what: str, problems: Sequence[str], images: str) -> BoundMissedError:
    return BoundMissedError(
        f"{what}: {'; '.join(problems)} ({images}).", "No file was kept. The float32 file keeps its figures."
    )


def _verdict(request: Request, graph: Graph) -> list[str]:
    doubts = []
    asked = request.budget is not None and request.precision == "fp16"
    if graph.precision == "fp16" and not asked and FP16_BUDGET.missed(graph.comparison):
        likely = FP16_BUDGET.likely_drop(graph.comparison)
        doubts.append(
            f"FP16 may lose up to {likely:.2f} points on other images: many lie close to the border of two classes."
        )
    if request.asked == graph.precision:
        return doubts
    start = "The answer is FP16, and that is what was written"
    if graph.gain is None:
        return [*doubts, f"{start}: no INT8 graph that is worth it keeps the budget."]
    summary = graph.gain.choice.summary
    if not graph.gain.choice.worthwhile:
        return [*doubts, f"{start}: {summary}. INT8 must be at least {_LEAST} faster to be worth its loss of digits."]
    steps = graph.plan.steps if graph.plan is not None else ()
    missed = request.budget.missed(steps[0].comparison) if request.budget is not None and steps else []
    tells = f" All that is faster in INT8 together: {'; '.join(missed)}." if missed else ""
    return [*doubts, f"{start}: {summary}, but no engine that is {_LEAST} faster keeps the budget.{tells}"]
