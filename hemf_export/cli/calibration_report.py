"""How a calibration is shown: the steps of its search while it runs, tables at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemf_export.calibration.budget import Budget, Step
from hemf_export.calibration.forms import Rewriting
from hemf_export.calibration.trials import BlockSensitivity
from hemf_export.cli import console, next_step
from hemf_export.metrics.percentage import percentage
from hemf_export.models.description import Description
from hemf_export.models.proof import Proof
from hemf_export.precision import int8_choice
from hemf_export.precision.compiled_precision import INT8_WORK
from hemf_export.precision.graph_file import QuantizedFile
from hemf_export.precision.int8_choice import milliseconds

_ISLANDS_SHOWN = 12
_DEFAULT_TARGET = "t4"  # of `trt`


class SearchSteps:
    """Prints the steps of a search as they end; knows no other event."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, event: object) -> None:
        if not isinstance(event, Step):
            return
        self._steps += 1
        found = event.comparison
        drop = "" if found.accuracy_drop_points is None else f"drop {found.accuracy_drop_points:+.2f} points, "
        console.say(
            f"  step {self._steps}: {len(event.blocks)} blocks, {event.share:.1%} of the work in INT8: {drop}"
            f"{found.agreement:.2%} agree, likely up to {max(0.0, event.likely_drop):.2f} points on others: "
            f"{'kept' if event.kept else 'too much'}"
        )


def show(file: QuantizedFile, budget: Budget | None, target: str = _DEFAULT_TARGET) -> None:
    """The tables of a finished file, and the next command, for a target."""
    plan, manifest = file.plan, file.manifest
    if plan is not None and plan.sensitivities:
        _sensitivities(plan.sensitivities, {product.block for product in plan.chosen})
    if islands := manifest.get("conversion", {}).get("float32_nodes_by_name"):
        _islands(islands)
    if "int8_gain" in manifest:
        _gain(manifest["int8_gain"])
    types = manifest["types"]
    rows = [
        ("size", console.size(file.path.stat().st_size)),
        ("products", _counts(types["products"])),
        ("nodes", f"{_counts(types['nodes'])}; {types['casts']} casts"),
    ]
    in_int8 = manifest.get("int8", {})
    if in_int8.get("int8_products"):
        tried = ", ".join(f"{name} {value:.1e}" for name, value in in_int8["methods_tried"].items())
        rows.append(("method", in_int8["method"] + (f" (KL of each: {tried})" if tried else "")))
        rows.append(("work in INT8", f"{in_int8['share_of_multiply_adds']:.1%} of the multiply-adds"))
        if budget is None and file.description.precision == "int8":
            rows.append(("faster than FP16", "not known: with --max-drop the engines are compared"))
        if out := in_int8["blocks_left_out"]:
            rows.append(("blocks with more left", ", ".join(out)))
    rows += proof_rows(file.proof, file.description.output.noun, budget)
    if file.reports:
        rows.append(("block by block", ", ".join(path.name for path in file.reports)))
    console.facts(str(file.path), rows)
    if file.description.precision == "int8-cpu":
        console.next_command("hemf-export bench", file.path)
    else:
        next_step.show(file.path, target=target)


def proof_rows(proof: Proof, noun: str, budget: Budget | None = None) -> list[tuple[str, str]]:
    """A proof, name by name.

    Args:
        proof: of a file.
        noun: what a score of the file is.
        budget: that was asked for, whatever came of it; None for the proof's own.
    """
    found, budget, images = proof.figures, budget or proof.budget, proof.images.images
    rows = []
    if (calibrated := proof.calibration_images) is not None:
        rows.append(("calibrated on", f"{calibrated}{_classes(calibrated.classes)}"))
    rows.append(("proven on", f"{proof.images}{_classes(proof.images.classes)}"))
    drop, interval = found.accuracy_drop_points, found.accuracy_drop_interval_points
    if found.accuracy is not None and found.reference_accuracy is not None:
        rows.append(
            (
                "accuracy",
                f"{percentage(found.accuracy, images)}, float32 {percentage(found.reference_accuracy, images)}",
            )
        )
    if drop is not None and interval is not None:
        low, high = interval
        allowed = "" if budget is None or budget.max_drop is None else f", budget {budget.max_drop:g}"
        rows.append(("drop", f"{drop:.2f} points (95 %: {low:.2f} to {high:.2f}{allowed})"))
    if found.balanced_accuracy is not None and found.reference_balanced_accuracy is not None:
        own, reference = (
            percentage(share, images) for share in (found.balanced_accuracy, found.reference_balanced_accuracy)
        )
        rows.append(("balanced accuracy", f"{own}, float32 {reference}"))
    expected = found.expected
    if expected is not None and drop is not None:
        likely = expected.likely_drop(images if budget is None else budget.likely_set(images))
        rows.append(("drop on other images", f"up to {max(0.0, likely):.2f} points, 19 times of 20"))
    others = "" if expected is None else f"; of other images {1 - expected.changes:.2%} expected"
    rows.append(("agreement", f"{percentage(found.agreement, images)}{others}"))
    if found.max_logit_difference is not None:
        bound = "" if proof.bound is None else f" (bound {proof.bound:.3g})"
        rows.append((f"largest {noun} difference", f"{found.max_logit_difference:.2e}{bound}"))
    return rows


def graph_rows(
    path: Path, description: Description, proof: Proof, manifest: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The graph of an engine, name by name."""
    conversion = manifest.get("conversion")
    kept = ""
    if conversion is not None:
        kept = f", {conversion['float32_nodes']} of {conversion['nodes']} nodes in float32"
    rows = [("graph", f"{path.name}, {console.size(path.stat().st_size)}{kept}")]
    if "passes" in (form := manifest.get("form", {})):
        rows.append(("rewritten for", str(Rewriting(form["for"], form["passes"]))))
    if "types" in manifest:
        rows.append(("products", _counts(manifest["types"]["products"])))
    if manifest.get("int8", {}).get("int8_products"):
        rows.append((INT8_WORK, f"{manifest['int8']['share_of_multiply_adds']:.1%} of the multiply-adds"))
    if (gain := int8_choice.of_manifest(manifest)) is not None:
        rows.append(("INT8 beside FP16", int8_choice.beside(gain)))
    return [*rows, *proof_rows(proof, description.output.noun)]


def _sensitivities(found: tuple[BlockSensitivity, ...], inside: set[str]) -> None:
    rows = []
    both = all(block.left_out is not None for block in found)
    for block in found:
        cells = [block.block, f"{block.share:.1%}"]
        for compared in (block.alone, block.left_out):
            if compared is not None:
                drop = compared.accuracy_drop_points
                cells += [f"{compared.kl_divergence:.1e}", "" if drop is None else f"{drop:.2f}"]
        rows.append((*cells, "INT8" if block.block in inside else "float"))
    columns = ("block", "work", "alone: KL", "drop", *(("left out: KL", "drop") if both else ()), "in")
    images = found[0].alone.images
    console.table(f"What INT8 costs, block by block ({images} calibration images)", columns, rows)
    console.results.print()


def _gain(told: Mapping[str, Any]) -> None:
    """FP16 and INT8 side by side, and which of them was chosen."""
    in_int8 = told["chosen"]["int8_products"] > 0
    names = {"fp16": "FP16", "chosen": "INT8"} if in_int8 else {"chosen": "FP16", "best": "fastest in INT8"}
    rows = []
    images = told["chosen"]["figures"]["images"]
    for key, name in {**names, "all_int8": "all in INT8"}.items():
        own = told[key]
        if own is None:
            continue
        found = own["figures"]
        accuracy = "–"
        if found.get("accuracy") is not None:
            own_share, reference = (percentage(found[which], images) for which in ("accuracy", "reference_accuracy"))
            accuracy = f"{own_share} ({reference})"
        rows.append(
            (
                name + (", chosen" if key == "chosen" else ""),
                milliseconds(own["model_ms"]), f"{own['model_ms'] / told['fp16']['model_ms']:.3f}",
                f"{own['kernels']:,}", "–" if own["plan_bytes"] is None else console.size(own["plan_bytes"]),
                f"{own['share_of_multiply_adds']:.1%}", accuracy, percentage(found["agreement"], images),
            )
        )  # fmt: skip
    console.table(
        f"Engines of {told['backend']} {told['version']} for {told['sm']} at batch {told['batch']}, modelled at the "
        f"published rates of {told['rates_of']}; accuracy on {images} held-out images",
        ("engine", "modelled", "of FP16", "kernels", "size", "work in INT8", "accuracy (float32)", "agreement"),
        rows,
    )  # fmt: skip
    console.results.print()


def _islands(islands: list[dict[str, str]]) -> None:
    """The float32 nodes, by block and reason."""
    groups = Counter((island["block"], island["reason"]) for island in islands)
    first = {(island["block"], island["reason"]): island["node"] for island in reversed(islands)}
    rows = [(block, str(count), first[block, reason], reason) for (block, reason), count in groups.items()]
    more = f", {len(rows) - _ISLANDS_SHOWN} more groups in the manifest" if len(rows) > _ISLANDS_SHOWN else ""
    title = f"{len(islands)} nodes stay in float32{more}"
    console.table(title, ("block", "nodes", "the first of them", "why"), rows[:_ISLANDS_SHOWN], words=(0, 2, 3))
    console.results.print()


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"


def _classes(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
