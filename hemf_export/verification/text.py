"""Write a verification as text, from its JSON: rows for a table, and Markdown for a pull request."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hemf_export.files.model_output import ModelOutput
from hemf_export.metrics.percentage import coefficient, percentage, points
from hemf_export.verification import baseline
from hemf_export.verification.bounds import Bounds

COLUMNS = ("file", "precision", "accuracy", "balanced", "MCC", "agreement", "changed", "largest difference", "verdict")
_SHOWN = 10  # changed images in Markdown
_PARAMETERS = {field.name for field in dataclasses.fields(Bounds)}


def rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for the reference and one for each candidate, with the columns `COLUMNS`."""
    reference, images = report["reference"], report["images"]["images"]
    lines: list[tuple[str, ...]] = [
        (reference["file"], reference["precision"], *_metrics(reference["metrics"], images), "", "", "", "reference")
    ]
    for candidate in report["candidates"]:
        paired = candidate["against_reference"]
        lines.append(
            (
                candidate["file"],
                candidate["precision"] + "*" * candidate["float16_emulated"],
                *_metrics(candidate["metrics"], images),
                percentage(paired["agreement"], images),
                str(paired["changed"]),
                _number(paired["logit_difference"]["max"]),
                "passed" if candidate["passed"] else "FAILED",
            )
        )
    return lines


def missed(report: Mapping[str, Any], *, parameters: bool = False) -> list[str]:
    """Describe every missed bound, after the name of its file, and every figure that is worse than the baseline.

    With `parameters`, each names the parameter that allows more.
    """
    violations = [
        f"{candidate['file']}: {item['text']}"
        + f" (`{item.get('bound')}`)" * (parameters and item.get("bound") in _PARAMETERS)
        for candidate in report["candidates"]
        for item in candidate["missed"]
    ]
    worse = baseline.texts(report["baseline"]) if "baseline" in report else []
    return [*violations, *(text + " (`max_drop`)" * parameters for text in worse)]


def verdict(report: Mapping[str, Any]) -> str:
    """Say in one sentence whether the candidates are the model that was validated, and by what that is known."""
    passed, failed = (
        [candidate["file"] for candidate in report["candidates"] if candidate["passed"] is wanted]
        for wanted in (True, False)
    )
    images = report["images"]["images"]
    if failed:
        count = sum(len(candidate["missed"]) for candidate in report["candidates"])
        missed_bounds = f"{count} bounds are missed" if count > 1 else "a bound is missed"
        others = f"; {_are(passed)}" if passed else ""
        return f"{_are(failed, 'not ')} the model that was validated: {missed_bounds}{others}."
    changed = max(
        candidate["against_reference"]["changed"] + candidate["against_reference"]["not_finite"]
        for candidate in report["candidates"]
    )
    kept = f"{'at least ' * (len(passed) > 1)}{images - changed} of {images}" if changed else f"all {images}"
    unchanged = f"{kept} images keep their class" if images > 1 else f"{images - changed} of 1 image keeps its class"
    sentence = f"{_are(passed)} the model that was validated: {unchanged}"
    drops = [candidate["against_reference"]["accuracy_drop_points"] for candidate in report["candidates"]]
    if None not in drops:
        lost = points(max(drops), images)
        sentence += f", and accuracy drops by {lost} points" if max(drops) > 0 else ", and no accuracy is lost"
    if "baseline" in report and not report["baseline"]["passed"]:
        sentence += "; but figures are worse than in the baseline"
    return sentence + "."


def _are(files: Sequence[str], negation: str = "") -> str:
    """Join names of files, and add the verb."""
    names = " and ".join(filter(None, (", ".join(files[:-1]), files[-1])))
    return f"{names} {'are' if len(files) > 1 else 'is'} {negation}".rstrip()


def title(report: Mapping[str, Any]) -> str:
    """Name the images that the files were compared on."""
    images = report["images"]
    labels = "" if images["labelled"] else ", no labels"
    return f"{images['images']} images of {images['folder']}{labels}"


def doubts(report: Mapping[str, Any]) -> list[str]:
    """List the doubts about the reference itself; older reports have none."""
    return [f"{report['reference']['file']}: {text}" for text in report.get("doubts", ())]


def footnotes(report: Mapping[str, Any]) -> list[str]:
    """List what a reader must know to read the table correctly."""
    sentences = []
    if any(candidate["float16_emulated"] for candidate in report["candidates"]):
        sentences.append(
            "* float16 is emulated here as a GPU rounds it: a CPU would compute it in float32. An engine's own kernels "
            "may sum in another order: run verify on it where it will run."
        )
    if noun(report) == "probability":
        sentences.append("The files give probabilities: differences and their bounds are of probabilities.")
    if not report["images"]["labelled"]:
        sentences.append("Without class folders only agreement with the reference is measured, no accuracy.")
    return sentences


def remarks(report: Mapping[str, Any]) -> list[str]:
    """List the footnotes, and what was compared and sound, for a report that is kept."""
    sentences = footnotes(report)
    compared = [candidate for candidate in report["candidates"] if "stored" in candidate]
    if compared:
        weights = sum(candidate["stored"]["weights"]["compared"] for candidate in compared)
        steps = sum(candidate["stored"]["steps"]["compared"] for candidate in compared)
        files = ", ".join(dict.fromkeys(candidate["stored"]["float32_file"] for candidate in compared))
        scales = f" and {steps:,} scales of quantized values" if steps else ""
        sentences.append(f"{weights:,} weight tensors{scales} were compared with {files}.")
    reference = report["reference"]["metrics"]
    if reference is not None and reference["auc_left_out"]:
        sentences.append(f"No AUC of {', '.join(reference['auc_left_out'])}: all images or none are of that class.")
    return sentences


def first_nodes(report: Mapping[str, Any]) -> list[str]:
    """Describe where each candidate whose nodes were compared diverges from the float32 file."""
    sentences = []
    for candidate in report["candidates"]:
        if "divergence" in candidate:
            where, first = candidate["divergence"], candidate["divergence"]["first"]
            if first is None:
                text = f"no node's own error stands out (beyond {where['bound']:.2g} of its value)"
            else:
                own = "not finite" if first["own_error"] is None else f"{first['own_error']:.2g} of its value"
                damaged = first["node"] in where["damaged"]
                what = "whose stored numbers are not those of" if damaged else "that stands out from"
                text = (
                    f"the first node {what} {where['float32_file']} is {first['node']} "
                    f"({first['operator']}, {first['block']}): its own error is {own}, "
                    f"usual is up to {where['bound']:.2g}"
                )
            sentences.append(f"{candidate['file']}: {text}.")
    return sentences


def markdown(report: Mapping[str, Any]) -> str:
    """Write the summary for a pull request: verdict, table, missed bounds, changed images."""
    verdict = "passed" if report["passed"] else "FAILED"
    lines = [
        f"## Verification {verdict}",
        "",
        title(report) + f"; checkpoint `{report['checkpoint_sha256'][:16]}`.",
        "",
    ]
    lines += _table(COLUMNS, rows(report))
    if problems := missed(report):
        lines += ["", "Missed:", "", *(f"- {_cell(text)}" for text in problems)]
    if where := first_nodes(report):
        lines += ["", *(f"- {_cell(text)}" for text in where)]
    for candidate in report["candidates"]:
        changed = candidate["changed_images"]
        if changed:
            lines += ["", f"Changed images of {_cell(candidate['file'])} ({len(changed)}):", ""]
            lines += _table(("image", "true", "reference", "candidate"), [_changed(item) for item in changed[:_SHOWN]])
            if len(changed) > _SHOWN:
                lines += ["", f"and {len(changed) - _SHOWN} more."]
    lines += ["", *(_cell(remark) for remark in (*doubts(report), *remarks(report)))]
    return "\n".join(lines).rstrip() + "\n"


def noun(report: Mapping[str, Any]) -> str:
    """Name the kind of number that is compared: logit or probability. Older reports, which don't say, hold logits."""
    return ModelOutput(report["reference"].get("output_type", "logits")).noun


def side(values: Mapping[str, Any]) -> str:
    """Name an image's class and its probability."""
    if values["class"] is None:
        return "not finite"
    return f"{values['class']} {values['probabilities'][values['class']]:.1%}"


def _changed(item: Mapping[str, Any]) -> tuple[str, ...]:
    return item["image"], item["label"] or "", side(item["reference"]), side(item["candidate"])


def _metrics(metrics: Mapping[str, Any] | None, images: int) -> tuple[str, str, str]:
    if metrics is None:
        return "", "", ""
    accuracy, balanced = (percentage(metrics[name], images) for name in ("accuracy", "balanced_accuracy"))
    return accuracy, balanced, coefficient(metrics["mcc"], images)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"


def _table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *body]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    """Escape text for Markdown: no sign of a name may end a cell, start a link or be read as HTML."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|" else sign for sign in plain)
