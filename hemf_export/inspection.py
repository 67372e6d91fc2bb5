"""What one of our files is: checkpoint, ONNX file or engine, by what is in it; with its checks and its hash.

An engine is only deserialized, to list its layers, where it passed its preflight: see `engines.preflight`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import machine, preflight
from hemf_export.engines.census import Census
from hemf_export.engines.kernels import Kernel
from hemf_export.engines.machine import Machine
from hemf_export.engines.plan_header import PlanHeader
from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.images.images import Preprocess
from hemf_export.metrics.percentage import percentage
from hemf_export.models import onnx_file, proof
from hemf_export.models.model_file import CheckpointFile, EngineFile, Kind, ModelFile
from hemf_export.models.onnx_file import OnnxFile
from hemf_export.models.proof import Proof
from hemf_export.pages import census_text
from hemf_export.precision import compiled_precision

_KERNEL_WORDS = (1, 2, 3, 4, 5, 6, 8)  # columns of a table of kernels that are words


@dataclass(frozen=True)
class Table:
    """A table to show.

    Args:
        title: above it.
        columns: heads.
        rows: cells, as many as there are columns.
        words: columns of words; the others are figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Inspection:
    """What a file is.

    Args:
        path: of the file.
        kind: what it is.
        facts: names and values to show, in order.
        values: the same for programs, in plain types.
        checks: what was looked at, what came of it, and what was found.
        conflict: why the file may not be used, here or at all; None where nothing speaks against it.
        notes: what a user should know.
        tables: of an engine's kernels.
    """

    path: Path
    kind: Kind
    facts: list[tuple[str, str]]
    values: dict[str, Any]
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    conflict: HemfError | None = None
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def inspect(
    path: Path,
    *,
    classes: tuple[str, ...] | None = None,
    reading: Reading = PLAIN,
    trust: bool = False,
    every_kernel: bool = False,
) -> Inspection:
    """Look at a file.

    Args:
        path: of a checkpoint (ours or another trainer's), an ONNX file, or an engine.
        classes: names for a checkpoint that has none.
        reading: how a checkpoint is read.
        trust: don't ask for an engine's manifest.
        every_kernel: of an engine, list them all.

    Raises:
        BadInputError: none of these, or damaged.
    """
    file = ModelFile.open(path, classes=classes, reading=reading)
    if isinstance(file, CheckpointFile):
        return _checkpoint(file)
    if reading != PLAIN:
        raise BadInputError(f"{path} is {file.title}: `weights` and `image_size` are for checkpoints.")
    if isinstance(file, EngineFile):
        return _engine(file, trust, every_kernel)
    assert isinstance(file, OnnxFile)
    return _onnx(file)


def _checkpoint(file: CheckpointFile) -> Inspection:
    saved, manifest = file.load(), file.manifest
    parameters = sum(value.numel() for name, value in saved.state.items() if not name.endswith("num_batches_tracked"))
    facts = [
        ("kind", "checkpoint"),
        ("network", f"{saved.config.name}, {parameters / 1e6:.3f} M numbers, {saved.config.image_size} px"),
        ("classes", ", ".join(saved.classes)),
        ("preprocessing", _preprocessing(saved.preprocess)),
    ]
    figures = saved.metrics.get("validation", {})
    if figures:
        accuracy = "not finite" if figures["accuracy"] is None else f"{figures['accuracy']:.2%}"
        facts.append(("validation accuracy", f"{accuracy} (epoch {saved.metrics['epoch']})"))
    facts += _identity(file)
    values = {
        "kind": "checkpoint", "config": saved.config.to_dict(), "classes": list(saved.classes),
        "preprocess": saved.preprocess.to_dict(), "sha256": saved.sha256, "metrics": saved.metrics,
        "provenance": saved.provenance, "manifest": manifest, "notes": list(saved.notes),
    }  # fmt: skip
    finite = ("weights", "fine", "all finite")
    conflict: HemfError | None = None
    try:
        saved.check_finite()
    except BadInputError as error:
        finite, conflict = ("weights", "refused", error.message), error
    return Inspection(
        file.path, "checkpoint", facts, values, [finite, _manifest(manifest)], conflict, list(saved.notes)
    )


def _onnx(file: OnnxFile) -> Inspection:
    from hemf_export.calibration.graph_types import count_types
    from hemf_export.calibration.graphs import parse

    notes: list[str] = []
    model = file.read()
    own: dict[str, Any] = {}
    if file.is_ours:
        described = file.description
        own = described.to_dict()
        facts = [
            ("kind", f"ONNX file of ours, {described.precision}"),
            ("network", described.name),
            ("classes", ", ".join(described.classes)),
            ("preprocessing", _preprocessing(described.preprocess)),
            ("takes", _taken(own)),
            ("gives", described.output.text(described.classes)),
            ("batch", str(described.batch or "any")),
            ("checkpoint", f"SHA-256 {described.checkpoint_sha256[:16]}…"),
        ]
    else:
        refusal: str | None
        facts = [("kind", "ONNX file that isn't ours")]
        refusal, notes = _refusal(file.path)
    types = count_types(parse(model))
    ends = {"inputs": onnx_file.inputs(model.graph), "outputs": list(model.graph.output)}
    shown = {name: [f"{value.name}: {onnx_file.signature(value)}" for value in values] for name, values in ends.items()}
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    facts += [(name, "; ".join(texts)) for name, texts in shown.items()]
    facts += [
        ("graph", f"{len(model.graph.node):,} nodes, opset {opset}, by {model.producer_name or 'nobody'}"),
        ("nodes compute in", _counted(types["nodes"])),
        ("products compute in", _counted(types["products"])),
    ]
    evidence, proof_notes = _proof(file.manifest)
    facts += _proven(evidence, str(own.get("output_type", "logits")))
    notes += proof_notes
    facts += _identity(file)
    values = {
        "kind": "onnx", **own, **shown, "opset": opset, "nodes": len(model.graph.node), "types": types,
        "sha256": file.sha256, "manifest": file.manifest, "proof": None if evidence is None else evidence.to_dict(),
    }  # fmt: skip
    if not own:
        values["convertible"] = refusal is None
    return Inspection(file.path, "onnx", facts, values, [_manifest(file.manifest)], None, notes)


def _refusal(path: Path) -> tuple[str | None, list[str]]:
    """Why another's file can't be converted, None where it can; and what a user should know of how it is read."""
    from hemf_export.calibration.graphs import prepare
    from hemf_export.models import graph_source

    try:
        source = graph_source.read(path)
        prepare(source.proto)
    except HemfError as error:
        return error.message, [f"It can't be converted: {error.message}"]
    return None, list(source.notes)


def _engine(file: EngineFile, trust: bool, every_kernel: bool) -> Inspection:
    path = file.path
    found = preflight.look(path, _machine(path), trust=trust)
    manifest = found.manifest
    facts = [("kind", "TensorRT engine"), *_build(found.header, manifest)]
    if manifest.get("classes"):
        facts.append(("classes", ", ".join(manifest["classes"])))
    if manifest.get("input_type"):
        facts.append(("takes", _taken(manifest)))
    evidence, proof_notes = _proof(manifest)
    facts += _proven(evidence, str(manifest.get("output_type", "logits")))
    layers, kernels, notes = _layers(path, trust) if found.refusal is None else ({}, [], [])
    facts += [(f"layers: {kind}", _counted(precisions)) for kind, precisions in layers.items()]
    compiled = _compiled(manifest, kernels, every_kernel)
    facts += compiled.facts
    notes += [*proof_notes, *compiled.notes]
    facts += _identity(file)
    checks: list[tuple[str, str, str]] = [(check.what, check.outcome, check.found) for check in found.checks]
    checks += compiled.checks
    header = None if found.header is None else vars(found.header)
    shown = census_text.without_lists(manifest) or None
    values: dict[str, Any] = {"kind": "engine", "header": header, "sha256": file.sha256, "manifest": shown}
    values["proof"] = None if evidence is None else evidence.to_dict()
    if compiled.kernels is not None:
        values["kernels"] = compiled.kernels
    values["checks"] = [dict(zip(("what", "outcome", "found"), check, strict=True)) for check in checks]
    values["layers"] = layers or None
    return Inspection(path, "engine", facts, values, checks, found.conflict, notes, compiled.tables)


@dataclass
class _Compiled:
    """What an engine's manifest tells of its kernels."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    kernels: list[dict[str, Any]] | None = None


def _compiled(manifest: dict[str, Any], inspected: list[Kernel], every_kernel: bool) -> _Compiled:
    """What a manifest tells; where it was written before there was a census, what the inspector does."""
    found = _Compiled()
    try:
        census = census_text.of_manifest(manifest)
        if census is None:
            if every_kernel and inspected:
                rows = census_text.kernel_rows(inspected)
                title = "kernels, as TensorRT's inspector lists them"
                found.tables.append(Table(title, census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))
                found.kernels = census_text.kernel_values(inspected)
            elif every_kernel:
                found.notes.append("Its manifest has no list of kernels: build it again to have one.")
            return found
        _add_census(found, census, every_kernel)
        if manifest.get("compiled_precision") is not None:
            compiled_precision.require_plain(manifest["compiled_precision"])
            _add_precision(found, manifest["compiled_precision"])
    except BadInputError as error:
        return _Compiled(notes=[f"What its manifest tells of its kernels can't be read: {error.message}"])
    return found


def _add_census(found: _Compiled, census: Census, every_kernel: bool) -> None:
    summary = census.summary()
    found.facts += [("compiled to", census_text.line(summary)), ("sizes from", census_text.sizes_from(summary))]
    for what, parts in (("block", summary["by_block"]), ("kind", summary["by_kind"])):
        rows = census_text.part_rows(parts, largest_first=True)
        found.tables.append(Table(f"kernels by {what}", (what, *census_text.PART_COLUMNS), rows, (0, 3)))
    if every_kernel:
        rows = census_text.kernel_rows(census.kernels)
        found.tables.append(Table("kernels, in launch order", census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))
        found.kernels = census_text.kernel_values(census.kernels)
        if census.twin is not None:
            title = f"kernels of the twin for batch {census.batch} alone, whose sizes are told"
            rows = census_text.kernel_rows(census.twin)
            found.tables.append(Table(title, census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))


def _add_precision(found: _Compiled, compiled: dict[str, Any]) -> None:
    found.facts.append((compiled_precision.INT8_WORK, compiled_precision.work(compiled)))
    broken = compiled_precision.remark(compiled)
    if broken is not None:
        found.notes.append(broken)
    kept = f"{compiled['int8_products']} of {compiled['promised_int8_products']} INT8 products are computed in INT8"
    found.checks.append(("precision as compiled", "fine" if broken is None else "broken", kept))


def _layers(path: Path, trust: bool) -> tuple[dict[str, dict[str, int]], list[Kernel], list[str]]:
    """Where the engine may run: its layers' precisions and its kernels, or in a note why there are none."""
    from hemf_export.engines import layers, runtime

    try:
        found, kernels = layers.of(runtime.deserialize(path, trust=trust))
        return layers.table(found), kernels, []
    except HemfError as error:
        return {}, [], [f"Its layers can't be listed: {error.message}"]


def _machine(path: Path) -> Machine:
    """This machine, of TensorRT only the flavour that the plan is of: the other one need not be loaded."""
    from hemf_export.engines import plan_header

    try:
        return machine.here((plan_header.read(path).backend,))
    except BadInputError:
        return machine.here(())


def _build(header: PlanHeader | None, manifest: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if header is not None:
        facts.append(("built by", f"{header.backend} {header.version or '(version not readable)'}"))
    if manifest.get("compute_capability"):
        facts.append(("for", f"{manifest.get('target')} ({manifest['compute_capability']})"))
    wanted = (("precision", "precision"), ("graph", "parent"))
    facts += [(title, str(manifest[name])) for title, name in wanted if manifest.get(name)]
    build = manifest.get("build")
    if isinstance(build, dict) and isinstance(build.get("profiles"), list):
        facts.append(("batches", ", ".join(map(str, build["profiles"]))))
    for entry in manifest["tensors"] if isinstance(manifest.get("tensors"), list) else []:
        shape = ", ".join("N" if size == -1 else str(size) for size in entry.get("shape", []))
        facts.append((str(entry.get("mode")), f"{entry.get('name')}: {entry.get('type')} ({shape})"))
    return facts


def _proof(manifest: dict[str, Any] | None) -> tuple[Proof | None, list[str]]:
    """A manifest's proof, or in a note why it can't be read."""
    try:
        return proof.of_manifest(manifest), []
    except BadInputError as error:
        return None, [error.message]


def _proven(evidence: Proof | None, output_type: str) -> list[tuple[str, str]]:
    """How a graph compared with what it was made from."""
    if evidence is None:
        return []
    figures, calibrated = evidence.figures, evidence.calibration_images
    noun = "probability" if output_type.startswith("probabilit") else "logit"
    images = evidence.images.images
    texts = [f"{percentage(figures.agreement, images)} agree"]
    if figures.max_logit_difference is not None:
        texts.append(f"largest {noun} difference {figures.max_logit_difference:.1e}")
    if figures.accuracy is not None and figures.reference_accuracy is not None:
        both = (percentage(share, images) for share in (figures.accuracy, figures.reference_accuracy))
        texts.append("accuracy {} (reference {})".format(*both))
    rows = [] if calibrated is None else [("calibrated on", str(calibrated))]
    emulated = ", float16 emulated" if evidence.float16_emulated else ""
    return [*rows, ("proven on", f"{evidence.images}{emulated}"), ("proof", ", ".join(texts))]


def _manifest(manifest: dict[str, Any] | None) -> tuple[str, str, str]:
    if manifest is None:
        return "manifest", "not checked", "there is none beside the file"
    return "manifest", "fine", f"SHA-256 {str(manifest['sha256'])[:16]}… is the file's"


def _identity(file: ModelFile) -> list[tuple[str, str]]:
    return [("size", f"{file.path.stat().st_size:,} bytes"), ("SHA-256", file.sha256)]


def _preprocessing(preprocess: Preprocess) -> str:
    return f"{preprocess.mode}, {preprocess.size} px"


def _taken(described: dict[str, Any]) -> str:
    """What a file is fed, in words."""
    source = described.get("source_size")
    if source:
        height, width = source
        return f"raw images of {height}x{width} pixels (height x width), which it resizes and crops itself"
    raw = described["input_type"] == "uint8"
    return "images resized and cropped, their raw pixels" if raw else "images resized, cropped and normalized"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"
