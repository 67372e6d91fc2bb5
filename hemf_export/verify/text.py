"""A verification as text: the table of the terminal, and Markdown for a pull request. Both from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hemf.model_output import ModelOutput
from hemf_export.verify import baseline

COLUMNS = ("file", "precision", "accuracy", "balanced", "MCC", "agreement", "changed", "max difference", "verdict")
_SHOWN = 10  # changed images in Markdown


def rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The reference and each candidate, in the order of `COLUMNS`."""
    reference = report["reference"]
    found: list[tuple[str, ...]] = [
        (reference["file"], reference["precision"], *_metrics(reference["metrics"]), "", "", "", "reference")
    ]
    for candidate in report["candidates"]:
        paired = candidate["against_reference"]
        found.append(
            (
                candidate["file"],
                candidate["precision"] + "*" * candidate["float16_emulated"],
                *_metrics(candidate["metrics"]),
                f"{paired['agreement']:.2%}",
                str(paired["changed"]),
                _number(paired["logit_difference"]["max"]),
                "passed" if candidate["passed"] else "FAILED",
            )
        )
    return found


def missed(report: Mapping[str, Any]) -> list[str]:
    """Every bound that was missed, in words, with the file's name before it; and what is worse than the baseline."""
    found = [
        f"{candidate['file']}: {item['text']}" for candidate in report["candidates"] for item in candidate["missed"]
    ]
    return [*found, *(baseline.texts(report["baseline"]) if "baseline" in report else [])]


def title(report: Mapping[str, Any]) -> str:
    """What was compared on what."""
    images = report["images"]
    labels = "" if images["labelled"] else ", no labels"
    return f"{images['images']} images of {images['folder']}{labels}"


def doubts(report: Mapping[str, Any]) -> list[str]:
    """What the reference itself gives to doubt; older reports don't tell."""
    return [f"{report['reference']['file']}: {text}" for text in report.get("doubts", ())]


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the figures right."""
    found = []
    if any(candidate["float16_emulated"] for candidate in report["candidates"]):
        found.append(
            "* float16 is emulated here as a GPU rounds it: a CPU would compute it in float32. An engine's own kernels "
            "may sum in another order: run verify on it where it will run."
        )
    compared = [candidate for candidate in report["candidates"] if "stored" in candidate]
    if compared:
        weights = sum(candidate["stored"]["weights"]["compared"] for candidate in compared)
        steps = sum(candidate["stored"]["steps"]["compared"] for candidate in compared)
        files = ", ".join(dict.fromkeys(candidate["stored"]["float32_file"] for candidate in compared))
        found.append(f"{weights:,} weights and {steps:,} steps of quantized values were compared with {files}.")
    if noun(report) == "probability":
        found.append("The files give probabilities: differences and their bounds are of probabilities.")
    if not report["images"]["labelled"]:
        found.append("Without class folders only agreement with the reference is measured, no accuracy.")
    reference = report["reference"]["metrics"]
    if reference is not None and reference["auc_left_out"]:
        found.append(f"No AUC of {', '.join(reference['auc_left_out'])}: all images or none are of that class.")
    return found


def first_nodes(report: Mapping[str, Any]) -> list[str]:
    """For each candidate that was looked into, where it leaves the float32 file."""
    found = []
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
            found.append(f"{candidate['file']}: {text}.")
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The same for a pull request: verdict, table, what was missed, the changed images."""
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
    """What the numbers are that are compared: logit, or probability; what older reports don't tell is logits."""
    return ModelOutput(report["reference"].get("output_type", "logits")).noun


def side(values: Mapping[str, Any]) -> str:
    """Class and its probability."""
    if values["class"] is None:
        return "not finite"
    return f"{values['class']} {values['probabilities'][values['class']]:.2%}"


def _changed(item: Mapping[str, Any]) -> tuple[str, ...]:
    return item["image"], item["label"] or "", side(item["reference"]), side(item["candidate"])


def _metrics(metrics: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if metrics is None:
        return "", "", ""
    return f"{metrics['accuracy']:.2%}", f"{metrics['balanced_accuracy']:.2%}", f"{metrics['mcc']:.4f}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"


def _table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *body]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    """Names as Markdown shows them: no sign of theirs may end a cell, start a link or be taken for HTML."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|" else sign for sign in plain)
