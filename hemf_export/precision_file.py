"""Writing a calibrated graph: the ONNX file, its manifest with all figures, and the sensitivities beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import figures, graph_types
from calibration.agreement import Comparison
from calibration.blocks import blocks
from calibration.budget import Budget
from calibration.forms import Rewriting
from calibration.fp16 import Conversion
from calibration.int8 import Plan
from calibration.job import Job
from calibration.trials import BATCH
from hemf import artifacts
from hemf_export import graph_writing, onnx_file, written
from hemf_export.description import Description, Precision
from hemf_export.int8_choice import Choice


@dataclass(frozen=True)
class Gain:
    """What INT8 gives and costs: engines' modelled times, and what they get right.

    Args:
        choice: the engines.
        figures: of `fp16`, `chosen`, `best` and `all_int8`, on the same few held-out images.
    """

    choice: Choice
    figures: dict[str, Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        values = self.choice.to_dict()
        figures = {name: {**values[name], "figures": own.to_dict()} for name, own in self.figures.items()}
        return {**values, **figures}


@dataclass(frozen=True)
class Graph:
    """A proven graph that is about to be written.

    Args:
        model: the graph.
        precision: that it has; "fp16" where INT8 was not worth it.
        logits: (n, classes) of the held-out images, as they were proven: float16 emulated.
        reference: the same by the float32 file.
        comparison: of the two.
        conversion: to float16; None for a CPU's graph.
        plan: of INT8; None for FP16.
        rewriting: to the form for a backend.
        gain: of INT8 on the target; None where nobody asked, or no engine can be compared.
        notes: what a user should know of it.
    """

    model: ir.Model
    precision: Precision
    logits: NDArray[np.float32]
    reference: NDArray[np.float32]
    comparison: Comparison
    conversion: Conversion | None
    plan: Plan | None
    rewriting: Rewriting
    gain: Gain | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A finished file and what is known of it.

    Args:
        path: of the ONNX file; its manifest lies beside it.
        description: what it says of itself.
        graph: that is in it, with its figures.
        types: of its nodes, counted in the file.
        manifest: as written.
        notes: what a user should know.
        reports: files with the sensitivities.
    """

    path: Path
    description: Description
    graph: Graph
    types: dict[str, Any]
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    reports: tuple[Path, ...] = ()


def write(
    path: Path,
    source: Path,
    job: Job,
    described: Description,
    graph: Graph,
    budget: Budget | None,
    notes: tuple[str, ...],
) -> Made:
    """Put `graph` and its reports at `path`, the manifest last.

    Args:
        path: of the file.
        source: the float32 file.
        job: that made the graph.
        described: what the float32 file says of itself.
        graph: proven.
        budget: that it keeps to.
        notes: what a user should know.
    """
    description = dataclasses.replace(described, precision=graph.precision, versions=artifacts.versions())
    onnx_file.describe(graph.model, description)
    with artifacts.atomic_path(path) as temporary:
        graph_writing.save(graph.model, temporary)
        types = graph_types.count_types(ir.load(temporary))
        batches = job.selection.held_out.batches(BATCH)
        plain = written.check(temporary, path.name, batches, graph.logits, graph.reference, job.output)
    fields: dict[str, Any] = {
        "kind": "onnx",
        "parent": source.name,
        "parent_sha256": job.graph_sha256,
        **description.to_dict(),
        "calibration_images": job.selection.calibration.to_dict(),
        "held_out_images": job.selection.held_out.to_dict(),
        "form": graph.rewriting.to_dict(),
        "types": types,
        # That of INT8 is no measure of an FP16 file that came of it.
        "budget": None if budget is None or (graph.gain and graph.precision == "fp16") else budget.to_dict(),
        "figures": {**graph.comparison.to_dict(), "float16_emulated": graph.precision != "int8-cpu"},
        "file_as_written": plain,
    }
    if graph.conversion is not None:
        where = blocks(job.model.graph)
        islands = [
            {"node": node, "block": where.get(node, ""), "reason": reason}
            for node, reason in graph.conversion.islands.items()
        ]
        fields["conversion"] = {**graph.conversion.to_dict(), "float32_nodes_by_name": islands}
    if graph.gain is not None:
        fields["int8_gain"] = {**graph.gain.to_dict(), "budget": None if budget is None else budget.to_dict()}
    reports: tuple[Path, ...] = ()
    if graph.plan is not None:
        fields["int8"] = graph.plan.to_dict()
        fields["search"] = [step.to_dict() for step in graph.plan.steps]
        reports = _write_sensitivities(path, described, graph.plan)
    manifest = artifacts.write_manifest(path, fields)
    return Made(path, description, graph, types, manifest, notes, reports)


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
