"""Write MODEL_CARD.md: what a model is, its training and test data and its metrics, from its checkpoint, manifests and
reports alone.

Where these lack a figure, the card says "not measured" or "not stated". It has no latencies: these are in timings/.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hemf_export.bundles import contents
from hemf_export.bundles.contents import Reports
from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import ModelOutput
from hemf_export.metrics.percentage import percentage, points
from hemf_export.models import discover, proof
from hemf_export.models.model_file import CheckpointFile
from hemf_export.pages import census_text
from hemf_export.pages.table import markdown_table
from hemf_export.precision import compiled_precision
from hemf_export.train.recipe import Recipe
from hemf_export.triton.servable import Servable

NAME = "MODEL_CARD.md"
MOST_TEXT = 1 << 20
NOT_MEASURED = "not measured"
_LIMITS = (
    "A tool for engineers made this file. It is no medical device, and no figure here says anything about a diagnosis.",
    "The figures are of the images named above. Other devices, sites, ages or preparations: not measured.",
    "Preprocessing is part of the model: images go through what each manifest describes, and through nothing else.",
    "Hashes show that files are the same, not who made them.",
)
_EMULATED = (
    "Float16 was emulated on a CPU, every result rounded as a GPU rounds it; the engine's own kernels may sum in "
    "another order. The bundle's self-test on the target compares them."
)
_RTX = (
    "The engine is TensorRT-RTX's for compute capability 7.5, promised for GeForce RTX 20; NVIDIA does not name the "
    "T4: try it there."
)
_PAPERS = Recipe().to_dict()


def read_use(path: Path) -> str:
    """Read the user's text on what the model is for.

    Raises:
        BadInputError: not a text, too long, or empty.
    """
    try:
        if path.stat().st_size > MOST_TEXT:
            raise BadInputError(f"{path} is too long for a model card: 1 MB is the most.")
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path} can't be read as text: {getattr(error, 'strerror', None) or error}.",
            "A text in UTF-8 is needed, such as Markdown.",
        ) from error
    if not text:
        raise BadInputError(f"{path} is empty.", "Say in it what the model is for, or leave it out.")
    return text


def read_training(given: Path | None, models: Sequence[Servable], factory: str | None = None) -> dict[str, Any] | None:
    """Read the training record of the checkpoint; None where it isn't available.

    Args:
        given: the checkpoint; None looks for it beside the models, by its hash.
        models: models made from it.
        factory: factory of its network, if that is one of the user's own.

    Raises:
        BadInputError: another checkpoint, or not a checkpoint.
    """
    sha256 = models[0].description.checkpoint_sha256
    reading = dataclasses.replace(models[0].description.reading, factory=factory)
    if given is None:
        places = dict.fromkeys(model.path.parent for model in models)
        checkpoint = next(filter(None, (discover.checkpoint_of(place, sha256) for place in places)), None)
        return None if checkpoint is None else checkpoint.read_as(reading=reading).load().provenance
    file = CheckpointFile.open(given, reading=reading)
    saved = file.load()
    if saved.sha256 != sha256:
        raise BadInputError(
            f"{given} is not the checkpoint that {models[0].path.name} was made from.",
            "Leave out `checkpoint`: it is looked for beside the files.",
        )
    return saved.provenance


def markdown(
    name: str, models: Sequence[Mapping[str, Any]], manifests: Sequence[Mapping[str, Any]], reports: Reports,
    use: str | None, trained: Mapping[str, Any] | None,
) -> str:  # fmt: skip
    """Return the model card in Markdown.

    Args:
        name: name of the bundle.
        models: models as in bundle.json.
        manifests: their manifests, in the same order.
        reports: their reports.
        use: what the model is for, in Markdown.
        trained: training record of the checkpoint; None where it isn't available.
    """
    first = manifests[0]
    parts = [
        f"# Model card: {name}",
        "",
        "Made by hemf-export from the manifests and reports beside it.",
        *_section("Model", _model(first)),
        *_section("Files", _files(models)),
        *_section("Intended use", [use or "Not stated. Whoever makes the bundle can state it."]),
        *_section("Data", _data(manifests, reports, trained)),
        *_section("Metrics", _metrics(reports)),
        *_section("Latency", _latency(reports)),
        *_section("Limits", _limits(models, reports)),
        *_section("Versions", [f"- {_cell(key)}: {_cell(value)}" for key, value in first["versions"].items()]),
        *_section("Hashes", _hashes(models, first)),
    ]
    return "\n".join(parts) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _model(manifest: Mapping[str, Any]) -> list[str]:
    preprocess = manifest["preprocess"]
    how = (
        "squashed to it"
        if preprocess["mode"] == "squash"
        else f"its centre, the shorter side resized to {preprocess['resize']}"
    )
    source, output = manifest.get("source_size"), ModelOutput(manifest.get("output_type", "logits"))
    inside = manifest["input_type"] == "uint8" and set(preprocess["std"]) == {1.0}  # in another exporter's file
    return [
        f"- Network: {_cell(manifest['name'])}{_architecture(manifest)}, an image classifier",
        f"- Classes, in their order: {', '.join(map(_cell, manifest['classes']))}",
        f"- Output: {_cell(output.text(manifest['classes']))}",
        f"- Input: RGB, {preprocess['size']} × {preprocess['size']} pixels ({how})"
        + (f", from raw images of {source[0]}x{source[1]}" if source else ""),
        "- Pixels are taken as they are; the file itself normalizes them"
        if inside
        else f"- Normalized by mean {preprocess['mean']} and standard deviation {preprocess['std']}",
    ]


def _architecture(manifest: Mapping[str, Any]) -> str:
    return f": {_cell(manifest['network'])}" if manifest.get("network") else ""


def _files(models: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            _cell(model["file"]),
            _cell(model["precision"]),
            f"{model['backend']} {model['backend_version']}, {model['compute_capability']}"
            if model["kind"] == "engine"
            else "ONNX Runtime",
            _cell(model["batches"]),
            str(model["golden_images"]),
        )
        for model in models
    ]
    compiled = [
        f"- {_cell(model['file'])} was compiled to {_cell(census_text.line(model['census']))}"
        + (f"; work in INT8: {compiled_precision.work(types)}" if (types := model["compiled_precision"]) else "")
        + "."
        for model in models
        if "census" in model
    ]
    lines = markdown_table(("file", "precision", "runs in", "batches", "golden images"), rows)
    return [*lines, *(["", *compiled] if compiled else [])]


def _data(manifests: Sequence[Mapping[str, Any]], reports: Reports, trained: Mapping[str, Any] | None) -> list[str]:
    lines = _training(trained)
    used: dict[str, None] = {}
    for evidence in filter(None, map(proof.of_manifest, manifests)):
        if (calibrated := evidence.calibration_images) is not None:
            used[f"- Calibration: {_images(calibrated.to_dict())}"] = None
            used[f"- Choice of precision: {_images(evidence.images.to_dict())}"] = None
    lines += list(used) or ["- Calibration: none, or not stated."]
    sources = {manifest["golden"]["source"]: None for manifest in manifests if manifest.get("golden")}
    lines.append(f"- Golden images, which are in this bundle: {', '.join(map(_cell, sources)) or 'none'}")
    report = reports.verification
    return [*lines, f"- Verification: {_images(report['images']) if report else NOT_MEASURED}"]


def _training(trained: Mapping[str, Any] | None) -> list[str]:
    """Return the card's lines on training; `trained` is the checkpoint's record, None where it isn't available."""
    if trained is None:
        return ["- Training: not stated, the checkpoint was neither beside the files nor named."]
    try:
        used = trained["images"]
        lines = [f"- Training: {_images(used['train'])}", f"- Choice of the epoch: {_images(used['val'])}"]
    except (KeyError, TypeError, AttributeError):  # the authors' checkpoint, or one from before images were recorded
        lines = ["- Training: not stated in the checkpoint."]
    if isinstance(trained.get("recipe"), Mapping):
        differs = [f"{name} {value}" for name, value in trained["recipe"].items() if value != _PAPERS.get(name)]
        lines.append("- Recipe: the paper's (Table 5)" + (f", but {_cell(', '.join(differs))}" if differs else ""))
    if isinstance(teacher := trained.get("teacher"), Mapping):
        lines.append(f"- Teacher: {_cell(teacher.get('model'))}, checkpoint {_cell(teacher.get('checkpoint_sha256'))}")
    return lines


def _images(images: Mapping[str, Any]) -> str:
    classes = images.get("classes") or {}
    counts = f" ({', '.join(f'{_cell(name)} {count}' for name, count in classes.items())})" if classes else ""
    folder, names = _cell(images["folder"]), images["names_sha256"]
    return f"{images['images']} images of `{folder}`{counts}, names' SHA-256 {names[:16]}…"


def _metrics(reports: Reports) -> list[str]:
    report = reports.verification
    if report is None:
        return [f"Accuracy, recall, agreement with the checkpoint: {NOT_MEASURED}."]
    rows, images = [], report["images"]["images"]
    for one in (report["reference"], *report["candidates"]):
        metrics, paired = one["metrics"], one.get("against_reference")
        names = ("accuracy", "balanced_accuracy", "macro_f1") if metrics else ()
        figures = [percentage(metrics[name], images) for name in names]
        drop = None if paired is None else paired["accuracy_drop_points"]
        interval = None if paired is None else paired["accuracy_drop_interval_points"]
        lost = points(drop, images) if drop is not None else "–"
        if interval is not None:
            lost += f" ({points(interval[0], images)} to {points(interval[1], images)})"
        rows.append(
            (
                _cell(one["file"]),
                one["precision"] + (", emulated" if one["float16_emulated"] else ""),
                *(figures or [NOT_MEASURED] * 3),
                "reference" if paired is None else percentage(paired["agreement"], images),
                lost,
            )
        )
    heads = ("file", "precision", "accuracy", "balanced", "macro F1", "agreement", "points lost (95 %)")
    lines = markdown_table(heads, rows)
    recalls = report["reference"]["metrics"]
    if recalls:
        shown = [one for one in (report["reference"], *report["candidates"]) if one["metrics"]]
        counts = report["images"]["classes"]
        table = [
            (_cell(name), *(percentage(one["metrics"]["recall"][name], counts[name]) for one in shown))
            for name in report["classes"]
        ]
        lines += ["", *markdown_table(("recall of", *(_cell(one["file"]) for one in shown)), table)]
    return [*lines, "", f"All of it: `{contents.VERIFY_PAGE}`, and as data `{contents.VERIFY_JSON}`."]


def _latency(reports: Reports) -> list[str]:
    if reports.bench is None:
        return [f"{NOT_MEASURED.capitalize()}."]
    return [f"Measured: `{contents.BENCH_PAGE}`, and as data `{contents.BENCH_JSON}`."]


def _limits(models: Sequence[Mapping[str, Any]], reports: Reports) -> list[str]:
    limits = list(_LIMITS)
    report = reports.verification
    if report is not None and any(one["float16_emulated"] for one in report["candidates"]):
        limits.append(_EMULATED)
    if any(model.get("backend") == "tensorrt-rtx" and model.get("target") == "t4" for model in models):
        limits.append(_RTX)
    for model in models:
        types = model.get("compiled_precision")
        if types is not None and (broken := compiled_precision.remark(types)) is not None:
            limits.append(f"{_cell(model['file'])}: {_cell(broken)}")
    seen = {one["sha256"] for one in report["candidates"]} if report else set()
    unseen = [_cell(model["file"]) for model in models if model["sha256"] not in seen]
    if unseen:
        limits.append(f"Not verified image by image: {', '.join(unseen)}.")
    return [f"- {text}" for text in limits]


def _hashes(models: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> list[str]:
    lines = [f"- `{model['sha256']}` {_cell(model['file'])}" for model in models]
    return [*lines, f"- `{manifest['checkpoint_sha256']}` the checkpoint", "- every file of the bundle: `SHA256SUMS`"]


def _cell(text: object) -> str:
    """Escape foreign text for a line of Markdown, whatever characters it has."""
    return re.sub(r"([\\`*<>\[\]])", r"\\\1", " ".join(str(text).split()))
