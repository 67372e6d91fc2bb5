"""Write a proven FP16 or INT8 graph: the ONNX file, its manifest with the proof, and the sensitivities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import graph_types, sensitivity_plot
from hemf_export.calibration.blocks import node_name
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.fp16 import Conversion
from hemf_export.calibration.int8 import Plan
from hemf_export.export import graph_writing
from hemf_export.files import artifacts
from hemf_export.metrics.comparison import Comparison
from hemf_export.models import onnx_model, proof
from hemf_export.models.description import Description, Precision
from hemf_export.models.graph_source import PreparationCheck, Source
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.precision import earlier_file
from hemf_export.precision.earlier_file import Recipe
from hemf_export.precision.form_choice import Choice as FormChoice
from hemf_export.precision.int8_choice import Choice


@dataclass(frozen=True)
class Gain:
    """Gain and cost of INT8: modelled times of engines, and their accuracy.

    Args:
        choice: the engines.
        figures: comparisons of `fp16`, `chosen`, `best` and `all_int8` with float32, on the same few held-out images.
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
    """A proven graph, to be written.

    Args:
        model: the graph.
        precision: its precision; "fp16" where INT8 wasn't worth it.
        logits: its logits (n, classes) of the proof's images, with float16 emulated.
        reference: the float32 file's logits of them.
        comparison: comparison of the two.
        conversion: conversion to float16; None for a CPU's graph.
        plan: INT8 plan; None for FP16.
        rewriting: passes for the backend.
        bound: largest difference of a score that was allowed; None for no bound.
        gain: gain of INT8 on the target; None without a budget, or where engines can't be compared.
        notes: remarks for the user.
    """

    model: ir.Model
    precision: Precision
    logits: NDArray[np.float32]
    reference: NDArray[np.float32]
    comparison: Comparison
    conversion: Conversion | None
    plan: Plan | None
    rewriting: Rewriting
    bound: float | None = None
    gain: Gain | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Source of a graph, and how it was made.

    Args:
        source: the float32 file.
        recipe: source and options, for the manifest.
        images: images of the proof.
        calibration_images: images that ranges were measured on; None where the structure alone decided.
        blocks: block of the network of each node.
        form: choice of the passes for the backend.
        preparation: comparison of the prepared float32 graph with the file.
        budget: requested budget.
    """

    source: Source
    recipe: Recipe
    images: ImageRecord
    calibration_images: ImageRecord | None
    blocks: Mapping[str, str]
    form: FormChoice
    preparation: PreparationCheck
    budget: Budget | None = None


@dataclass(frozen=True)
class QuantizedFile:
    """A finished FP16 or INT8 file.

    Args:
        path: the ONNX file, with its manifest beside it.
        description: its description.
        proof: its comparison with the float32 file.
        manifest: content of the manifest.
        notes: remarks for the user.
        reports: files with the sensitivities.
        plan: INT8 plan, with the sensitivities; None for FP16 and for an existing file.
        reused: whether the file existed already.
    """

    path: Path
    description: Description
    proof: Proof
    manifest: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    reports: tuple[Path, ...] = ()
    plan: Plan | None = None
    reused: bool = False


def write(
    path: Path, origin: Origin, graph: Graph, inputs: Iterable[NDArray[np.generic]], notes: tuple[str, ...]
) -> QuantizedFile:
    """Write `graph` to `path` with its reports, the manifest last.

    Args:
        path: the ONNX file.
        origin: what the graph was made from.
        graph: the proven graph.
        inputs: network input of the proof's images, in batches.
        notes: remarks for the user.

    Raises:
        CheckFailedError: the written file differs from the proven graph; it isn't kept.
    """
    described, output = origin.source.description, origin.source.description.output
    description = dataclasses.replace(described, precision=graph.precision, versions=artifacts.versions())
    onnx_model.describe(graph.model, description)
    with artifacts.atomic_path(path) as temporary:
        graph_writing.save(graph.model, temporary)
        saved = ir.load(temporary)
        types, names = graph_types.count_types(saved), {node_name(node) for node in saved.graph}
        del saved
        as_written = graph_writing.check_written(temporary, path.name, inputs, graph.logits, graph.reference, output)
    evidence = Proof(
        origin.images,
        Figures.from_dict(graph.comparison.to_dict()),
        float16_emulated=graph.precision != "int8-cpu",
        calibration_images=origin.calibration_images,
        bound=graph.bound,
        # A budget for INT8 doesn't apply to the FP16 file that a search for INT8 may end with.
        budget=None if graph.gain is not None and graph.precision == "fp16" else origin.budget,
        file_as_written=as_written,
    )
    fields: dict[str, Any] = {
        "kind": "onnx",
        "parent": origin.source.file.name,
        "parent_sha256": origin.source.sha256,
        **description.to_dict(),
        earlier_file.KEY: origin.recipe.for_manifest(),
        "form": {**graph.rewriting.to_dict(), **origin.preparation.to_dict(), **origin.form.to_dict()},
        "types": types,
        proof.KEY: evidence.to_dict(),
    }
    if graph.conversion is not None:
        # Islands are chosen before the last passes for the backend, which split some layer norms: those are counted as
        # float32 inside kernels.
        islands = {node: reason for node, reason in graph.conversion.islands.items() if node in names}
        by_name = [
            {"node": node, "block": origin.blocks.get(node, ""), "reason": reason} for node, reason in islands.items()
        ]
        conversion = dataclasses.replace(graph.conversion, islands=islands).to_dict()
        fields["conversion"] = {**conversion, "float32_nodes_by_name": by_name}
    if graph.gain is not None:
        fields["int8_gain"] = {
            **graph.gain.to_dict(),
            "budget": None if origin.budget is None else origin.budget.to_dict(),
        }
    reports: tuple[Path, ...] = ()
    if graph.plan is not None:
        fields["int8"] = graph.plan.to_dict()
        fields["search"] = [step.to_dict() for step in graph.plan.steps]
        reports = _write_sensitivities(path, described, graph.plan)
    manifest = artifacts.write_manifest(path, fields)
    return QuantizedFile(path, description, evidence, manifest, notes, reports, graph.plan)


def _write_sensitivities(path: Path, described: Description, plan: Plan) -> tuple[Path, ...]:
    if not plan.sensitivities:
        return ()
    stem = path.with_suffix("")
    data, picture = (stem.with_name(f"{stem.name}.sensitivity{suffix}") for suffix in (".json", ".png"))
    values = {"method": plan.method, "blocks": [block.to_dict() for block in plan.sensitivities]}
    artifacts.write_json(data, values)
    inside = list(dict.fromkeys(product.block for product in plan.chosen))
    sensitivity_plot.save(plan.sensitivities, inside, f"{described.name}: what INT8 costs, block by block", picture)
    return data, picture
