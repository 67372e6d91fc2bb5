"""Writing a proven FP16 or INT8 graph: the ONNX file, its manifest with the proof, and the sensitivities beside it."""

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
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.fp16 import Conversion
from hemf_export.calibration.int8 import Plan
from hemf_export.export import graph_writing, written
from hemf_export.files import artifacts
from hemf_export.metrics.comparison import Comparison
from hemf_export.models import onnx_file, proof
from hemf_export.models.description import Description, Precision
from hemf_export.models.graph_source import Source
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.precision import earlier_file
from hemf_export.precision.earlier_file import Recipe
from hemf_export.precision.form_choice import Choice as FormChoice
from hemf_export.precision.int8_choice import Choice
from hemf_export.precision.same_model import SameModel


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
        logits: (n, classes) of the images of the proof, as they were proven: float16 emulated.
        reference: the float32 file's logits of them.
        comparison: of the two.
        conversion: to float16; None for a CPU's graph.
        plan: of INT8; None for FP16.
        rewriting: to the form for a backend.
        bound: the largest difference of a score that was allowed; None for no bound.
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
    bound: float | None = None
    gain: Gain | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """What a graph was made from, and how.

    Args:
        source: the float32 file.
        recipe: with the options.
        images: of the proof.
        calibration_images: that ranges were measured on; None for structure alone.
        blocks: of the network, by node.
        form: how the passes for the backend were chosen.
        same_model: how the prepared float32 graph compared with the file.
        budget: that was asked for.
    """

    source: Source
    recipe: Recipe
    images: ImageRecord
    calibration_images: ImageRecord | None
    blocks: Mapping[str, str]
    form: FormChoice
    same_model: SameModel
    budget: Budget | None = None


@dataclass(frozen=True)
class QuantizedFile:
    """A finished FP16 or INT8 file and what is known of it.

    Args:
        path: of the ONNX file; its manifest lies beside it.
        description: what it says of itself.
        proof: against the float32 file.
        manifest: as it lies beside the file.
        notes: what a user should know.
        reports: files with the sensitivities.
        plan: of INT8, with the sensitivities; None for FP16, and for a file that lay there already.
        reused: whether it lay there already.
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
    """Put `graph` and its reports at `path`, the manifest last.

    Args:
        path: of the file.
        origin: what it was made from.
        graph: proven.
        inputs: batches of the proof's images, from the first on.
        notes: what a user should know.

    Raises:
        CheckFailedError: the file as written isn't what was proven; nothing is left behind.
    """
    described, output = origin.source.description, origin.source.description.output
    description = dataclasses.replace(described, precision=graph.precision, versions=artifacts.versions())
    onnx_file.describe(graph.model, description)
    with artifacts.atomic_path(path) as temporary:
        graph_writing.save(graph.model, temporary)
        types = graph_types.count_types(ir.load(temporary))
        as_written = written.check(temporary, path.name, inputs, graph.logits, graph.reference, output)
    evidence = Proof(
        origin.images,
        Figures.from_dict(graph.comparison.to_dict()),
        float16_emulated=graph.precision != "int8-cpu",
        calibration_images=origin.calibration_images,
        bound=graph.bound,
        # That of INT8 is no measure of an FP16 file that came of it.
        budget=None if graph.gain is not None and graph.precision == "fp16" else origin.budget,
        file_as_written=as_written,
    )
    fields: dict[str, Any] = {
        "kind": "onnx",
        "parent": origin.source.file.name,
        "parent_sha256": origin.source.sha256,
        **description.to_dict(),
        earlier_file.KEY: origin.recipe.for_manifest(),
        "form": {**graph.rewriting.to_dict(), **origin.same_model.to_dict(), **origin.form.to_dict()},
        "types": types,
        proof.KEY: evidence.to_dict(),
    }
    if graph.conversion is not None:
        islands = [
            {"node": node, "block": origin.blocks.get(node, ""), "reason": reason}
            for node, reason in graph.conversion.islands.items()
        ]
        fields["conversion"] = {**graph.conversion.to_dict(), "float32_nodes_by_name": islands}
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
