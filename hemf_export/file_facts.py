"""Facts of a model file: its kind, content, checks and hash. `inspect` shows them.

An engine is only deserialized, to list its layers, after its preflight check: see `engines.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import machine, preflight
from hemf_export.engines.census import Census
from hemf_export.engines.kernels import Kernel
from hemf_export.engines.machine import Machine
from hemf_export.engines.preflight import PlanHeader
from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.images.images import Preprocess
from hemf_export.metrics.percentage import percentage
from hemf_export.models import onnx_model, proof
from hemf_export.models.description import Description
from hemf_export.models.file_kinds import Kind
from hemf_export.models.model_file import CheckpointFile, EngineFile, ModelFile, OnnxFile
from hemf_export.models.proof import Proof
from hemf_export.pages import census_text
from hemf_export.pages.table import Table
from hemf_export.precision import compiled_precision

if TYPE_CHECKING:
    from hemf_export.checkpoints.checkpoint import Checkpoint

_KERNEL_WORDS = (1, 2, 3, 4, 5, 6, 8)  # text columns of a table of kernels


@dataclass(frozen=True)
class FileFacts:
    """Facts of a model file.

    Args:
        path: the file.
        kind: its kind.
        facts: names and values to show, in order.
        values: the same for programs, in plain types.
        checks: subject, outcome and details of each check.
        conflict: why the file can't be used, here or anywhere; None where it can.
        notes: remarks for the user.
        tables: tables of an engine's kernels.
    """

    path: Path
    kind: Kind
    facts: list[tuple[str, str]]
    values: dict[str, Any]
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    conflict: HemfError | None = None
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def facts_of(
    path: Path,
    *,
    classes: tuple[str, ...] | None = None,
    reading: Reading = PLAIN,
    trust: bool = False,
    every_kernel: bool = False,
) -> FileFacts:
    """Collect the facts of a model file. Nothing of it is run.

    Args:
        path: a checkpoint (ours or of another training program), an ONNX file, or an engine.
        classes: class names for a checkpoint that has none.
        reading: how a checkpoint is read.
        trust: don't require an engine's manifest.
        every_kernel: list all kernels of an engine.

    Raises:
        BadInputError: not a model file, or a damaged one.
    """
    file = ModelFile.open(path, classes=classes, reading=reading)
    if isinstance(file, CheckpointFile):
        return _checkpoint(file)
    if reading.given:
        raise BadInputError(
            f"{path} is {file.title}: `weights`, `image_size` and `factory` are for checkpoints.", "Leave them out."
        )
    if isinstance(file, EngineFile):
        return _engine(file, trust, every_kernel)
    assert isinstance(file, OnnxFile)
    return _onnx(file)


def _checkpoint(file: CheckpointFile) -> FileFacts:
    saved, manifest = file.load(), file.manifest
    parameters = sum(value.numel() for name, value in saved.state.items() if not name.endswith("num_batches_tracked"))
    facts = [
        ("kind", "checkpoint"),
        ("network", f"{saved.config.name}, {parameters / 1e6:.3f} M parameters, {saved.config.image_size} px"),
        *checkpoint_rows(saved),
        *_identity(file),
    ]
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
    return FileFacts(file.path, "checkpoint", facts, values, [finite, _manifest(manifest)], conflict, list(saved.notes))


def checkpoint_rows(saved: Checkpoint) -> list[tuple[str, str]]:
    """Names and values that describe a checkpoint: classes, preprocessing, and the accuracy of its validation."""
    rows = [("classes", ", ".join(saved.classes)), ("preprocessing", _preprocessing(saved.preprocess))]
    if metrics := saved.metrics.get("validation", {}):
        share = metrics["accuracy"]
        accuracy = "not finite" if share is None else percentage(share, metrics.get("images", 1000))
        rows.append(("validation accuracy", f"{accuracy} (epoch {saved.metrics['epoch']})"))
    return rows


def _onnx(file: OnnxFile) -> FileFacts:
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
        assumed, refusal, notes = _read(file.path)
        facts = [("kind", "ONNX file that isn't ours")]
        if assumed is not None:
            facts += [("takes", _taken(assumed.to_dict())), ("gives", assumed.output.text(assumed.classes))]
    types = count_types(parse(model))
    ends = {"inputs": onnx_model.inputs(model.graph), "outputs": list(model.graph.output)}
    shown = {
        name: [f"{value.name}: {onnx_model.signature(value)}" for value in values] for name, values in ends.items()
    }
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    facts += [(name, "; ".join(texts)) for name, texts in shown.items()]
    facts += [
        ("graph", f"{len(model.graph.node):,} nodes, opset {opset}, by {model.producer_name or 'nobody'}"),
        ("nodes compute in", _counted(types["nodes"]) + _float32_nodes(file.manifest)),
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
    return FileFacts(file.path, "onnx", facts, values, [_manifest(file.manifest)], None, notes)


def _read(path: Path) -> tuple[Description | None, str | None, list[str]]:
    """Assumed description of a file that isn't ours; why it can't be quantized, or None; notes on how it is read."""
    from hemf_export.calibration.graphs import prepare
    from hemf_export.models import graph_source

    try:
        source = graph_source.read(path)
        prepare(source.proto)
    except HemfError as error:
        return None, error.message, [f"It can't be converted: {error.message}"]
    return source.description, None, list(source.notes)


def _engine(file: EngineFile, trust: bool, every_kernel: bool) -> FileFacts:
    path = file.path
    checked = preflight.look(path, _machine(path), trust=trust)
    manifest = checked.manifest
    facts = [("kind", "TensorRT engine"), *_build(checked.header, manifest)]
    if manifest.get("classes"):
        facts.append(("classes", ", ".join(manifest["classes"])))
    if manifest.get("input_type"):
        facts.append(("takes", _taken(manifest)))
    evidence, proof_notes = _proof(manifest)
    facts += _proven(evidence, str(manifest.get("output_type", "logits")))
    layers, kernels, notes = _layers(path, trust) if checked.refusal is None else ({}, [], [])
    facts += [(f"layers: {kind}", _counted(precisions)) for kind, precisions in layers.items()]
    compiled = _compiled(manifest, kernels, every_kernel)
    facts += compiled.facts
    notes += [*proof_notes, *compiled.notes]
    facts += _identity(file)
    checks: list[tuple[str, str, str]] = [(check.what, check.outcome, check.found) for check in checked.checks]
    checks += compiled.checks
    header = None if checked.header is None else vars(checked.header)
    shown = census_text.without_lists(manifest) or None
    values: dict[str, Any] = {"kind": "engine", "header": header, "sha256": file.sha256, "manifest": shown}
    values["proof"] = None if evidence is None else evidence.to_dict()
    if compiled.kernels is not None:
        values["kernels"] = compiled.kernels
    values["checks"] = [dict(zip(("what", "outcome", "found"), check, strict=True)) for check in checks]
    values["layers"] = layers or None
    return FileFacts(path, "engine", facts, values, checks, checked.conflict, notes, compiled.tables)


@dataclass
class _Compiled:
    """Kernels in an engine's manifest."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    kernels: list[dict[str, Any]] | None = None


def _compiled(manifest: dict[str, Any], inspected: list[Kernel], every_kernel: bool) -> _Compiled:
    """Collect the kernels in a manifest; in one without a census, those of TensorRT's inspector."""
    details = _Compiled()
    try:
        census = census_text.of_manifest(manifest)
        if census is None:
            if every_kernel and inspected:
                rows = census_text.kernel_rows(inspected)
                title = "kernels, as TensorRT's inspector lists them"
                details.tables.append(Table(title, census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))
                details.kernels = census_text.kernel_values(inspected)
            elif every_kernel:
                details.notes.append("Its manifest has no list of kernels: build it again to have one.")
            return details
        _add_census(details, census, every_kernel)
        if manifest.get("compiled_precision") is not None:
            compiled_precision.require_plain(manifest["compiled_precision"])
            _add_precision(details, manifest["compiled_precision"])
    except BadInputError as error:
        return _Compiled(notes=[f"What its manifest tells of its kernels can't be read: {error.message}"])
    return details


def _add_census(details: _Compiled, census: Census, every_kernel: bool) -> None:
    summary = census.summary()
    details.facts += [("compiled to", census_text.line(summary)), ("sizes from", census_text.sizes_from(summary))]
    for what, parts in (("block", summary["by_block"]), ("kind", summary["by_kind"])):
        rows = census_text.part_rows(parts, largest_first=True)
        details.tables.append(Table(f"kernels by {what}", (what, *census_text.PART_COLUMNS), rows, (0, 3)))
    if every_kernel:
        rows = census_text.kernel_rows(census.kernels)
        details.tables.append(Table("kernels, in launch order", census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))
        details.kernels = census_text.kernel_values(census.kernels)
        if census.twin is not None:
            title = f"kernels of the twin for batch {census.batch} alone, whose sizes are known"
            rows = census_text.kernel_rows(census.twin)
            details.tables.append(Table(title, census_text.KERNEL_COLUMNS, rows, _KERNEL_WORDS))


def _add_precision(details: _Compiled, compiled: dict[str, Any]) -> None:
    details.facts.append((census_text.INT8_WORK, compiled_precision.work(compiled)))
    broken = compiled_precision.remark(compiled)
    if broken is not None:
        details.notes.append(broken)
    kept = f"{compiled['int8_products']} of {compiled['promised_int8_products']} INT8 products are computed in INT8"
    details.checks.append(("precision as compiled", "fine" if broken is None else "broken", kept))


def _layers(path: Path, trust: bool) -> tuple[dict[str, dict[str, int]], list[Kernel], list[str]]:
    """List the precisions of an engine's layers and its kernels; or, in a note, why they can't be listed."""
    from hemf_export.engines import layers, runtime

    try:
        found = layers.inspect(runtime.deserialize(path, trust=trust))
        return layers.table(found.layers), found.kernels, [] if found.note is None else [found.note]
    except HemfError as error:
        return {}, [], [f"Its layers can't be listed: {error.message}"]


def _machine(path: Path) -> Machine:
    """Describe this machine with the TensorRT of the engine only: the other one need not be loaded."""
    try:
        return machine.here((preflight.read_header(path).backend,))
    except BadInputError:
        return machine.here(())


def _build(header: PlanHeader | None, manifest: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if header is not None:
        facts.append(("built by", f"{header.backend} {header.version or '(version not readable)'}"))
    if manifest.get("compute_capability"):
        alone = f", {manifest.get('built_on')} alone" if manifest.get("hardware_compatible") is False else ""
        facts.append(("for", f"{manifest.get('target')} ({manifest['compute_capability']}{alone})"))
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
    """Read a manifest's proof; or, in a note, why it can't be read."""
    try:
        return proof.of_manifest(manifest), []
    except BadInputError as error:
        return None, [error.message]


def _proven(evidence: Proof | None, output_type: str) -> list[tuple[str, str]]:
    """Facts of a proof."""
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
    """Describe the input of a model."""
    source = described.get("source_size")
    if source:
        height, width = source
        return f"raw images of {height}x{width} pixels (height x width), which it resizes and crops itself"
    raw = described["input_type"] == "uint8"
    text = "images resized and cropped, their raw pixels" if raw else "images resized, cropped and normalized"
    order = {"NCHW": "(N, 3, H, W)", "NHWC": "(N, H, W, 3)"}.get(str(described.get("layout")))
    return text if order is None else f"{text}, in the order {order}"


def _float32_nodes(manifest: Mapping[str, Any] | None) -> str:
    """Say how many of an FP16 file's float32 nodes are inside kernels; the others were kept for precision."""
    conversion = (manifest or {}).get("conversion")
    inside = conversion.get("float32_inside_kernels") if isinstance(conversion, Mapping) else None
    if not inside:
        return ""
    return f" ({inside:,} of these inside kernels that read and write float16, the others kept for precision)"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"
