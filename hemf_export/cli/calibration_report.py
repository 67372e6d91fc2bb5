"""Show a calibration: the steps of its search while it runs, tables at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hemf_export
from hemf_export.api.events import Step
from hemf_export.cli import console, next_step
from hemf_export.metrics.percentage import percentage, points
from hemf_export.pages.census_text import INT8_WORK
from hemf_export.pages.figures import modelled_time

if TYPE_CHECKING:
    from hemf_export.calibration.budget import Budget
    from hemf_export.calibration.trials import BlockSensitivity

_ISLANDS_SHOWN = 12


class SearchSteps:
    """Event handler that prints the steps of a search, and ignores other events."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, event: object) -> None:
        if not isinstance(event, Step):
            return
        self._steps += 1
        comparison = event.comparison
        drop = ""
        if comparison.accuracy_drop_points is not None:
            drop = f"drop {points(comparison.accuracy_drop_points, comparison.images)} points, "
        console.say(
            f"  step {self._steps}: {len(event.blocks)} blocks, {event.share:.1%} of the work in INT8: {drop}"
            f"{percentage(comparison.agreement, comparison.images)} agree, "
            f"up to {max(0.0, event.likely_drop):.2f} points likely on other images: "
            f"{'kept' if event.kept else 'too much'}"
        )


def show(file: hemf_export.QuantizedFile, images: Path) -> None:
    """Print the tables of a finished file, and the next command."""
    manifest, budget = file.manifest, file.budget
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
        if budget is None and file.precision == "int8":
            rows.append(("faster than FP16", "not known: with --max-drop the engines are compared"))
        if out := in_int8["blocks_left_out"]:
            rows.append(("blocks with more left", ", ".join(out)))
    rows += _proof_rows(file, budget)
    if file.reports:
        rows.append(("block by block", ", ".join(path.name for path in file.reports)))
    console.facts(str(file.path), rows)
    if "int8_gain" in manifest:
        _gain(manifest["int8_gain"])
    if islands := manifest.get("conversion", {}).get("float32_nodes_by_name"):
        _islands(islands)
    if file.sensitivities:
        _sensitivities(file.sensitivities, file.int8_blocks)
    if file.precision == "int8-cpu":
        console.next_command("hemf-export bench", file.path)
    else:
        next_step.show(file.path, target=file.target, images=images)


def _proof_rows(file: hemf_export.OnnxFile, budget: Budget | None = None) -> list[tuple[str, str]]:
    """Return the proof of a file as names and values.

    Args:
        file: the proven file.
        budget: the requested budget; None for the proof's own.
    """
    proof = file.proof
    if proof is None:
        return []
    comparison, budget, images = proof.figures, budget or proof.budget, proof.images.images
    rows = []
    if (calibrated := proof.calibration_images) is not None:
        rows.append(("calibrated on", f"{calibrated}{_classes(calibrated.classes)}"))
    rows.append(("proven on", f"{proof.images}{_classes(proof.images.classes)}"))
    drop, interval = comparison.accuracy_drop_points, comparison.accuracy_drop_interval_points
    if comparison.accuracy is not None and comparison.reference_accuracy is not None:
        accuracy, reference = (
            percentage(share, images) for share in (comparison.accuracy, comparison.reference_accuracy)
        )
        rows.append(("accuracy", f"{accuracy}, float32 {reference}"))
    if drop is not None and interval is not None:
        low, high = interval
        allowed = "" if budget is None or budget.max_drop is None else f", budget {budget.max_drop:g}"
        own, least, most = (points(value, images) for value in (drop, low, high))
        rows.append(("drop", f"{own} points (95 %: {least} to {most}{allowed})"))
    if comparison.balanced_accuracy is not None and comparison.reference_balanced_accuracy is not None:
        own, reference = (
            percentage(share, images)
            for share in (comparison.balanced_accuracy, comparison.reference_balanced_accuracy)
        )
        rows.append(("balanced accuracy", f"{own}, float32 {reference}"))
    expected = comparison.expected
    if expected is not None and drop is not None:
        likely = expected.likely_drop(images if budget is None else budget.likely_set(images))
        rows.append(("drop on other images", f"up to {max(0.0, likely):.2f} points (95 %)"))
    others = "" if expected is None else f" (expected on other images: {1 - expected.changes:.2%})"
    rows.append(("agreement", f"{percentage(comparison.agreement, images)}{others}"))
    if comparison.max_logit_difference is not None:
        bound = "" if proof.bound is None else f" (bound {proof.bound:.3g})"
        rows.append((f"largest {file.noun} difference", f"{comparison.max_logit_difference:.2e}{bound}"))
    return rows


def engine_rows(engine: hemf_export.EngineFile) -> list[tuple[str, str]]:
    """Return the build, the kernels and the graph of an engine as names and values."""
    manifest = engine.manifest
    peak = manifest["build_peak_memory_bytes"]
    memory = f", {console.size(peak)} of memory" if peak else ""
    size = console.size(engine.path.stat().st_size)
    rows = [
        ("engine", f"{size}, {manifest['build_seconds']:.0f} s to build{memory}"),
        ("built by", f"{manifest['backend']} {manifest['backend_version']} for {manifest['target']} "
                     f"({manifest['compute_capability']})"),
        ("batches", ", ".join(manifest["build"]["profiles"])),
    ]  # fmt: skip
    if (kernels := engine.compiled_to) is not None:
        rows.append(("compiled to", kernels))
    graph = _graph_rows(engine.graph)
    if (work := engine.int8_work) is not None:  # the engine's share alone, not its graph's
        rows.append((INT8_WORK, work))
        graph = [row for row in graph if row[0] != INT8_WORK]
    return [*rows, *graph]


def _graph_rows(graph: hemf_export.OnnxFile) -> list[tuple[str, str]]:
    """Return the graph of an engine as names and values."""
    path, manifest = graph.path, graph.manifest
    conversion = manifest.get("conversion")
    kept = ""
    if conversion is not None:
        kept = f", {conversion['float32_nodes']} of {conversion['nodes']} nodes in float32"
    rows = [("graph", f"{path.name}, {console.size(path.stat().st_size)}{kept}")]
    if (form := graph.form) is not None:
        rows.append(("rewritten for", form))
    if "types" in manifest:
        rows.append(("products", _counts(manifest["types"]["products"])))
    if manifest.get("int8", {}).get("int8_products"):
        rows.append((INT8_WORK, f"{manifest['int8']['share_of_multiply_adds']:.1%} of the multiply-adds"))
    if (gain := graph.int8_beside_fp16) is not None:
        rows.append(("INT8 beside FP16", gain))
    return [*rows, *_proof_rows(graph)]


def _sensitivities(sensitivities: tuple[BlockSensitivity, ...], inside: frozenset[str]) -> None:
    rows = []
    both = all(block.left_out is not None for block in sensitivities)
    for block in sensitivities:
        cells = [block.block, f"{block.share:.1%}"]
        for compared in (block.alone, block.left_out):
            if compared is not None:
                drop = compared.accuracy_drop_points
                cells += [f"{compared.kl_divergence:.1e}", "" if drop is None else f"{drop:.2f}"]
        rows.append((*cells, "INT8" if block.block in inside else "float"))
    columns = ("block", "work", "alone: KL", "drop", *(("left out: KL", "drop") if both else ()), "in")
    images = sensitivities[0].alone.images
    console.table(f"\nWhat INT8 costs, block by block ({images} calibration images)", columns, rows)


def _gain(gain: Mapping[str, Any]) -> None:
    """Print FP16 and INT8 side by side, and which of them was chosen."""
    in_int8 = gain["chosen"]["int8_products"] > 0
    names = {"fp16": "FP16", "chosen": "INT8"} if in_int8 else {"chosen": "FP16", "best": "fastest in INT8"}
    rows = []
    images = gain["chosen"]["figures"]["images"]
    for key, name in {**names, "all_int8": "all in INT8"}.items():
        own = gain[key]
        if own is None:
            continue
        figures = own["figures"]
        accuracy = "–"
        if figures.get("accuracy") is not None:
            own_share, reference = (percentage(figures[which], images) for which in ("accuracy", "reference_accuracy"))
            accuracy = f"{own_share} ({reference})"
        rows.append(
            (
                name + (", chosen" if key == "chosen" else ""),
                modelled_time(own["model_ms"]), f"{own['model_ms'] / gain['fp16']['model_ms']:.3f}",
                f"{own['kernels']:,}", "–" if own["plan_bytes"] is None else console.size(own["plan_bytes"]),
                f"{own['share_of_multiply_adds']:.1%}", accuracy, percentage(figures["agreement"], images),
            )
        )  # fmt: skip
    console.table(
        f"\nEngines of {gain['backend']} {gain['version']} for {gain['sm']} at batch {gain['batch']}, modelled at the "
        f"published rates of {gain['rates_of']}; accuracy on {images} held-out images",
        ("engine", "modelled", "of FP16", "kernels", "size", "work in INT8", "accuracy (float32)", "agreement"),
        rows,
    )  # fmt: skip


def _islands(islands: list[dict[str, str]]) -> None:
    """Print the float32 nodes by block and reason."""
    groups = Counter((island["block"], island["reason"]) for island in islands)
    first = {(island["block"], island["reason"]): island["node"] for island in reversed(islands)}
    rows = [(block, str(count), first[block, reason], reason) for (block, reason), count in groups.items()]
    more = f", {len(rows) - _ISLANDS_SHOWN} more groups in the manifest" if len(rows) > _ISLANDS_SHOWN else ""
    title = f"\n{len(islands)} nodes stay in float32{more}"
    console.table(title, ("block", "nodes", "the first of them", "why"), rows[:_ISLANDS_SHOWN], words=(0, 2, 3))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"


def _classes(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
