"""Float32 ONNX file + images → the FP16 or INT8 file that keeps its bound or budget, with its proof beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import figures, graph_types, int8, repair, selection
from calibration.agreement import Comparison, compare
from calibration.blocks import blocks
from calibration.budget import Budget
from calibration.cache import Cache
from calibration.fp16 import Conversion
from calibration.graphs import prepare
from calibration.int8 import MethodChoice, Plan
from calibration.job import Job, Listener
from calibration.products import Product
from hemf import artifacts
from hemf.errors import CheckFailedError
from hemf_export import graph_source, onnx_file
from hemf_export.fp16 import Bounds
from hemf_export.graph_source import Assumptions
from hemf_export.onnx_file import Description, Precision

FP16_JUDGES = 64  # held-out images: a bound on logits needs fewer than a drop of half a point
INT8_JUDGES = 512


@dataclass(frozen=True)
class Request:
    """What to make; see `hemf-export calibrate --help`."""

    source: Path
    precision: Literal["fp16", "int8"]
    images: Path
    output: Path | None = None
    held_out: Path | None = None
    count: int = selection.CALIBRATION_IMAGES
    judges: int | None = None
    seed: int = 0
    allow_single_class: bool = False
    method: MethodChoice = "auto"
    budget: Budget | None = None
    with_sensitivity: bool = False
    for_cpu: bool = False
    bounds: Bounds = field(default_factory=Bounds)
    assumptions: Assumptions = field(default_factory=Assumptions)
    cache: Path | None = None


@dataclass(frozen=True)
class Made:
    """A finished file and what is known of it.

    Args:
        path: of the ONNX file; its manifest lies beside it.
        description: what it says of itself; its precision is "fp16" where INT8 was not worth it.
        comparison: with the float32 file, on the held-out images.
        conversion: to float16; None for a CPU's graph.
        plan: of INT8; None for FP16.
        types: of its nodes, counted in the file.
        manifest: as written.
        notes: what a user should know.
        reports: files with the sensitivities.
    """

    path: Path
    description: Description
    comparison: Comparison
    conversion: Conversion | None
    plan: Plan | None
    types: dict[str, Any]
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    reports: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Graph:
    """What is about to be written."""

    model: ir.Model
    precision: Precision
    comparison: Comparison
    conversion: Conversion | None
    plan: Plan | None


def make(request: Request, listener: Listener) -> Made:
    """Calibrate `request.source` and write the result.

    Raises:
        BadInputError: the file or the images.
        CheckFailedError: a bound or the budget is missed by every graph; nothing is left behind.
    """
    wanted: Precision = request.precision if not request.for_cpu else "int8-cpu"
    if request.output is not None:
        artifacts.check_writable(request.output)
        artifacts.check_distinct(request.source, request.output)
    proto, described, notes = graph_source.read(request.source, request.assumptions)
    model = prepare(proto)
    del proto
    judges = request.judges or (FP16_JUDGES if request.precision == "fp16" else INT8_JUDGES)
    own_classes = None if described.classes == _numbered(described) else described.classes
    listener.phase("Choosing images", 0)
    chosen = selection.select(
        request.images, described.preprocess, own_classes, held_out=request.held_out, count=request.count,
        seed=request.seed, allow_single_class=request.allow_single_class, raw=described.input_type == "uint8",
        batch=described.batch,
    )  # fmt: skip
    chosen = dataclasses.replace(chosen, held_out=chosen.held_out.whole(judges))
    selection.check_pictures(chosen.calibration)
    job = Job(model, artifacts.sha256(request.source), chosen, Cache(request.cache), listener)
    graph = _cpu(request, job) if request.for_cpu else _float16(request, job)
    path = request.output or _default_output(request.source, graph.precision)
    artifacts.check_writable(path)
    artifacts.check_distinct(request.source, path)
    notes = (*notes, *chosen.notes, *job.cache.notes, *_verdict(wanted, graph))
    return _write(request, job, described, graph, path, notes)


def _float16(request: Request, job: Job) -> _Graph:
    """The FP16 graph, or INT8 in FP16, proven as it is shipped; of a search's graphs the largest that holds so."""
    islands, _ = job.islands()
    plan = None
    candidates: list[tuple[Product, ...]] = [()]
    if request.precision == "int8":
        plan = int8.plan(
            job, islands, method=request.method, budget=request.budget, with_sensitivity=request.with_sensitivity
        )
        smaller = [plan.products_of(step.blocks) for step in plan.smaller() if step.share <= plan.share]
        candidates = [plan.chosen] if request.budget is None else [*smaller, ()]
    judges = job.selection.held_out
    trials = job.trials({} if plan is None else plan.histograms, judges)
    job.listener.phase("Proving on held-out images", len(judges) * 2)
    reference = trials.reference
    missed: list[str] = []
    for products in candidates:
        variant = trials.build(products, "max" if plan is None else plan.method)

        def problems(logits: NDArray[np.float32]) -> list[str]:
            return _missed(request, compare(logits, reference, judges.labels), reference)

        made = repair.convert(
            variant, islands, judges, reference, lambda logits: not problems(logits), progress=job.listener.advance
        )
        missed = problems(made.logits)
        if not missed:
            final = None if plan is None else dataclasses.replace(plan, chosen=products)
            found = compare(made.logits, reference, judges.labels)
            return _Graph(made.model, "int8" if products else "fp16", found, made.conversion, final)
    raise CheckFailedError(
        f"{request.source.name} in {'FP16' if not candidates[-1] else 'INT8'}: {'; '.join(missed)} "
        f"({len(judges)} held-out images).",
        "No file was kept. The float32 file keeps its figures; to allow more, see --help.",
    )


def _cpu(request: Request, job: Job) -> _Graph:
    """INT8 with float32 in between: the very graph of the search is shipped."""
    plan = int8.plan(
        job, {}, method=request.method, budget=request.budget, with_sensitivity=request.with_sensitivity, for_cpu=True
    )
    if not plan.chosen:
        raise CheckFailedError(
            f"No INT8 graph of {request.source.name} for a CPU keeps the budget: the float32 file is the answer.",
            "To allow more, see --max-drop and --min-agreement.",
        )
    judges = job.selection.held_out
    trials = job.trials(plan.histograms, judges, plan.place)
    job.listener.phase("Proving on held-out images", len(judges) * 2)
    found = trials.compare(plan.chosen, plan.method)
    if missed := _missed(request, found, trials.reference):
        raise CheckFailedError(f"{request.source.name} in INT8 for a CPU: {'; '.join(missed)}.", "No file was kept.")
    return _Graph(trials.build(plan.chosen, plan.method), "int8-cpu", found, None, plan)


def _missed(request: Request, found: Comparison, reference: NDArray[np.float32]) -> list[str]:
    """What a graph's figures miss, in words: the budget of INT8, or the bounds of FP16."""
    if not found.finite:
        return ["logits that are not finite"]
    if request.precision == "int8":
        return [] if request.budget is None else request.budget.missed(found)
    problems = []
    bound = request.bounds.logit_bound(float(np.abs(reference).max()))
    if not found.max_difference <= bound:
        problems.append(f"a logit differs by {found.max_difference:.3g}, bound {bound:.3g} (--max-logit-diff)")
    least = request.bounds.agreement_of(found.images)
    if found.agreement < least:
        problems.append(f"{found.agreement:.2%} keep their class, bound {least:.2%} (--min-agreement)")
    return problems


def _verdict(wanted: Precision, graph: _Graph) -> list[str]:
    if wanted == graph.precision or graph.plan is None:
        return []
    return ["No INT8 graph that is worth it keeps the budget: the answer is FP16, and that is what was written."]


def _numbered(described: Description) -> tuple[str, ...]:
    """The names that classes get where nobody knows them: a folder's own are no contradiction then."""
    return tuple(f"class_{index}" for index in range(len(described.classes)))


def _default_output(source: Path, precision: Precision) -> Path:
    return source.with_name(f"{source.with_suffix('').name}.{precision}.onnx")


def _write(
    request: Request, job: Job, described: Description, graph: _Graph, path: Path, notes: tuple[str, ...]
) -> Made:
    description = dataclasses.replace(described, precision=graph.precision, versions=artifacts.versions())
    onnx_file.describe(graph.model, description)
    with artifacts.atomic_path(path) as temporary:
        ir.save(graph.model, temporary)
        types = graph_types.count_types(ir.load(temporary))
    fields: dict[str, Any] = {
        "kind": "onnx",
        "parent": request.source.name,
        "parent_sha256": job.graph_sha256,
        **description.to_dict(),
        "calibration_images": job.selection.calibration.to_dict(),
        "held_out_images": job.selection.held_out.to_dict(),
        "types": types,
        "figures": graph.comparison.to_dict(),
    }
    if graph.conversion is not None:
        where = blocks(job.model.graph)
        islands = [
            {"node": node, "block": where.get(node, ""), "reason": reason}
            for node, reason in graph.conversion.islands.items()
        ]
        fields["conversion"] = {**graph.conversion.to_dict(), "float32_nodes_by_name": islands}
    reports: tuple[Path, ...] = ()
    if graph.plan is not None:
        fields["int8"] = graph.plan.to_dict()
        fields["budget"] = None if request.budget is None else request.budget.to_dict()
        fields["search"] = [step.to_dict() for step in graph.plan.steps]
        reports = _write_sensitivities(path, described, graph.plan)
    manifest = artifacts.write_manifest(path, fields)
    return Made(path, description, graph.comparison, graph.conversion, graph.plan, types, manifest, notes, reports)


def _write_sensitivities(path: Path, described: Description, plan: Plan) -> tuple[Path, ...]:
    if not plan.sensitivities:
        return ()
    stem = path.with_suffix("")
    data, picture = (stem.with_name(f"{stem.name}.sensitivity{suffix}") for suffix in (".json", ".png"))
    values = {"method": plan.method, "blocks": [block.to_dict() for block in plan.sensitivities]}
    artifacts.write_json(data, values)
    inside = list(dict.fromkeys(product.block for product in plan.chosen))
    figures.save_sensitivity(plan.sensitivities, inside, f"{described.name}: what INT8 costs, block by block", picture)
    return data, picture
