"""Quantize a float32 ONNX file: write the FP16 or INT8 file that keeps a bound or budget, with its proof.

With images, nodes stay in float32 where the ranges measured on them require it, and held-out images prove the graph.
Without, they stay in float32 wherever the structure of the graph might require it, and seeded noise proves it; INT8
needs images.

`earlier_file` decides about existing files.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import forms, image_set
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.cache import Cache
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.image_set import Selection
from hemf_export.calibration.job import Job
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import BATCH
from hemf_export.export.parity import Samples
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import image_labels
from hemf_export.metrics.comparison import compare
from hemf_export.models import graph_source, plausibility, proof
from hemf_export.models.description import Description
from hemf_export.models.graph_source import Source
from hemf_export.models.model_file import OnnxFile
from hemf_export.models.proof import ImageRecord
from hemf_export.precision import earlier_file, form_choice, graph_file, graph_search, int8_choice
from hemf_export.precision.bounds import BoundMissedError
from hemf_export.precision.earlier_file import Recipe
from hemf_export.precision.graph_file import Graph, Origin, QuantizedFile
from hemf_export.precision.graph_search import FP16_BUDGET
from hemf_export.precision.quantization_request import BUDGET_HELD_OUT_IMAGES, HELD_OUT_IMAGES, Request

_LEAST = f"{int8_choice.LEAST_GAIN:.0%}"
NOISE_IMAGES = 8  # for the proof of a graph that is made by structure alone


@locks.owning(lambda request, *_, **__: request.places)
def make(request: Request, progress: Progress = SILENT) -> QuantizedFile:
    """Quantize `request.source` and write the result.

    Raises:
        BadInputError: the file or the images.
        WouldReplaceError: a file that was made otherwise would be replaced.
        InUseError: another process is writing that file.
        BoundMissedError: every graph exceeds a bound or the budget; no file is written.
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
    """Make FP16 with float32 wherever the structure of the graph might require it, proven on seeded noise."""
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
    check = graph_source.check_prepared(model, original, inputs[:1], alone=described.batch is None)
    origin = Origin(source, recipe, record, None, blocks(model.graph), choice, check)
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
    if problems := request.bounds.missed(comparison, output, noise=True):
        raise BoundMissedError(f"{request.source.name} in FP16", problems, str(record))
    graph = Graph(model, "fp16", logits, reference, comparison, conversion, None, rewriting, bound)
    notes = (*source.notes, *_note_of(choice), *check.notes)
    return graph_file.write(request.place("fp16"), origin, graph, inputs, notes)


def _by_measurement(request: Request, source: Source, progress: Progress) -> QuantizedFile:
    """Make FP16 or INT8 by ranges measured on calibration images, proven on held-out images."""
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
    few = chosen.held_out.whole(max(graph_source.CHECK_IMAGES, chosen.held_out.batch or 1))
    check = graph_source.check_prepared(model, original, list(few.batches(BATCH)), alone=few.batch is None)
    origin = Origin(source, recipe, records[1], records[0], blocks(model.graph), choice, check, request.budget)
    notes = [*source.notes, *_note_of(choice), *chosen.notes, *check.notes, *_doubts(request, job)]
    last = choice.among(forms.last(form))
    if request.asked == "int8-cpu":
        graph = graph_search.for_cpu(request, job)
    else:
        graph = graph_search.for_gpu(request, job, described, last)
    path = request.place(graph.precision)
    artifacts.check_writable(path)
    notes += [*job.cache.notes, *(graph.plan.notes if graph.plan else ()), *graph.notes]
    notes += _verdict(request, graph)
    return graph_file.write(path, origin, graph, chosen.held_out.batches(BATCH), tuple(notes))


def _select(request: Request, described: Description, progress: Progress) -> Selection:
    """Select the calibration images and the held-out images."""
    assert request.images is not None
    count = request.held_out_count or (HELD_OUT_IMAGES if request.budget is None else BUDGET_HELD_OUT_IMAGES)
    own_classes = described.classes if image_labels.are_names(described.classes) else None
    with progress.task("Choosing images"):
        chosen = image_set.select(
            request.images, described.input, own_classes, held_out=request.held_out, count=request.count,
            seed=request.seed, allow_single_class=request.allow_single_class, batch=described.batch,
        )  # fmt: skip
    held_out, notes = chosen.held_out.whole(count), chosen.notes
    if own_classes is None:
        images, more = image_labels.match(held_out.images, described.classes)
        held_out, notes = dataclasses.replace(held_out, images=images), (*notes, *more)
    return dataclasses.replace(chosen, held_out=held_out, notes=notes)


def _recipe(request: Request, source: Source, calibration: ImageRecord | None, held_out: ImageRecord) -> Recipe:
    """Recipe with everything that affects the file or its proof."""
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


# Options that an FP16 file from a search for INT8 has in common with a requested FP16 file.
_SAME_FP16 = (
    *("for", "calibration_images", "max_logit_difference", "min_agreement", "preprocess", "classes", "output_type"),
)


def _earlier(request: Request, recipe: Recipe) -> QuantizedFile | None:
    """Find an existing file to reuse; None where one has to be made.

    Raises:
        WouldReplaceError: a file that was made otherwise would be replaced.
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
    """Options that the request sets for an FP16 file; with none, any file of the same source is reused."""
    names = {"for"}
    if request.images is not None:
        names |= {"calibration_images", "preprocess", "classes", "output_type"}
    if request.held_out_count is not None or request.held_out is not None:
        names.add("held_out_images")
    names |= {name for name, value in request.bounds.to_dict().items() if value is not None}
    if request.budget is not None:
        names.add("budget")
    if request.compiler.tune:
        names |= {"tune", "target", "batch"}
    return names


def _kept(request: Request, path: Path) -> QuantizedFile | None:
    """Read the file at `path`, if it has a proof and a precision that fits the request; else None."""
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
        f"{path} exists already, made from this {request.source.name} ({how}, proven on {evidence.images}): it is used."
    )
    return QuantizedFile(path, description, evidence, manifest, (note,), reused=True)


def _form(request: Request, model: ir.Model, described: Description, progress: Progress) -> form_choice.Choice:
    ours = OnnxFile.open(request.source).is_ours
    return form_choice.choose(model, request.compiler, described, ours=ours, progress=progress)


def _note_of(choice: form_choice.Choice) -> tuple[str, ...]:
    return () if choice.note is None else (choice.note,)


def _doubts(request: Request, job: Job) -> tuple[str, ...]:
    """Check the float32 file on labelled images, before hours of work; returns doubts in words."""
    if job.selection.held_out.labels is None:
        return ()
    images = job.selection.held_out  # their logits are the reference for everything later
    with job.progress.task("Looking at the float32 file"):
        scores = job.reference(images)
        remarks = plausibility.look(images.images, scores, images.input, job.original.logits, images.batch or BATCH)
    remarks = tuple(f"{request.source.name}: {text}" for text in remarks)
    for text in remarks:
        job.progress.note(text)
    return remarks


def _verdict(request: Request, graph: Graph) -> list[str]:
    doubts = []
    asked = request.budget is not None and request.precision == "fp16"
    if graph.precision == "fp16" and not asked and FP16_BUDGET.missed(graph.comparison):
        likely = FP16_BUDGET.likely_drop(graph.comparison)
        doubts.append(
            f"FP16 may lose up to {likely:.2f} points on other images: many are close to a decision boundary."
        )
    if request.asked == graph.precision:
        return doubts
    start = "The result is FP16, and that is what was written"
    if graph.gain is None:
        return [*doubts, f"{start}: no INT8 graph that is worth it keeps the budget."]
    summary = graph.gain.choice.summary
    if not graph.gain.choice.worthwhile:
        return [*doubts, f"{start}: {summary}. INT8 must be at least {_LEAST} faster to be worth its loss of digits."]
    steps = graph.plan.steps if graph.plan is not None else ()
    missed = request.budget.missed(steps[0].comparison) if request.budget is not None and steps else []
    tells = f" All that is faster in INT8 together: {'; '.join(missed)}." if missed else ""
    return [*doubts, f"{start}: {summary}, but no engine that is {_LEAST} faster keeps the budget.{tells}"]
