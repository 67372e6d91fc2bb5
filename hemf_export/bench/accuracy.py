"""Combine the latency of the files that `bench` timed with their accuracy, from the JSON of a verification.

Nothing is measured here. The page shows it in plots and a table, the Markdown in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hemf_export.bench import plots
from hemf_export.bench.plots import Point
from hemf_export.bench.report import TimedFile
from hemf_export.files.errors import BadInputError
from hemf_export.metrics.percentage import percentage, points
from hemf_export.pages.table import markdown_table
from hemf_export.verification import baseline

_WHOSE = "Accuracy and agreement are those of the files, by their verification; not of the runs that were timed here."
_EMULATED = "* verified with float16 rounded as a GPU does; what was timed here need not round like that."
_UNLABELLED = "Without labels there is no accuracy: agreement with the checkpoint stands in its place."


@dataclass(frozen=True)
class Verified:
    """A verification, read back.

    Args:
        path: its JSON file.
        checkpoint_sha256: hash of the checkpoint that its files were made from.
        images: the images that it ran on: their folder, number, hash of the names, and whether they have labels.
        subjects: the reference and the candidates, each with what is shown of it beside its latency.
        doubts: doubts about the reference, in words.
    """

    path: Path
    checkpoint_sha256: str
    images: Mapping[str, Any]
    subjects: tuple[Mapping[str, Any], ...]
    doubts: tuple[str, ...] = ()

    def require(self, checkpoint_sha256: str, files: Sequence[TimedFile]) -> None:
        """Refuse a verification of other files, before anything is timed.

        Raises:
            BadInputError: it is of another checkpoint, or of none of the files.
        """
        if self.checkpoint_sha256 != checkpoint_sha256:
            raise BadInputError(
                f"{self.path} is of the checkpoint {self.checkpoint_sha256[:16]}; what is to be timed was made from "
                f"{checkpoint_sha256[:16]}.",
                "Verify these files: `verify(*FILE, data=DIR).to_dict()`.",
            )
        if not any(_same(subject, file.name, file.sha256) for subject in self.subjects for file in files):
            known = ", ".join(str(subject["file"]) for subject in self.subjects)
            raise BadInputError(
                f"{self.path} is of none of the files that are to be timed, as they are now: it has {known}.",
                "Verify these files: `verify(*FILE, data=DIR).to_dict()`.",
            )

    def beside(self, timings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Look up what was verified of each runner's file.

        Args:
            timings: of a bench, in plain types.

        Returns:
            `figure`: "accuracy", or "agreement" where there are no labels; `runners`: what was verified, by the
            runner's name; `not_verified`: runners without, and why; `file` and `images` of the verification.
        """
        runners, missing = [], []
        for timing in {one["name"]: one for one in timings}.values():
            subject = next((s for s in self.subjects if _same(s, timing["file"], timing["sha256"])), None)
            if subject is None:
                named = any(s["file"] == timing["file"] for s in self.subjects)
                reason = "the file has changed since" if named else "the file was not verified"
            elif subject["precision"] == "fp32" != timing["precision"]:
                reason = "the file was verified in float32, which this runner doesn't compute in"
            else:
                runners.append({"name": timing["name"], **subject})
                continue
            missing.append({"name": timing["name"], "reason": reason})
        return {
            "file": self.path.name,
            "images": dict(self.images),
            "figure": "accuracy" if self.images["labelled"] else "agreement",
            "runners": runners,
            "not_verified": missing,
        }


def read(path: Path) -> Verified:
    """Read the JSON of a verification.

    Raises:
        BadInputError: it can't be read, or is something else.
    """
    report = baseline.read(path).values
    try:
        images = {name: report["images"][name] for name in ("folder", "images", "names_sha256", "labelled")}
        subjects = (_subject(report["reference"]), *map(_subject, report["candidates"]))
        doubts = tuple(f"{report['reference']['file']}: {text}" for text in report.get("doubts", ()))
        return Verified(path, str(report["checkpoint_sha256"]), images, subjects, doubts)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} lacks a part of a verification: {error}.", "Make it again.") from error


def _subject(values: Mapping[str, Any]) -> dict[str, Any]:
    paired = values.get("against_reference")  # missing for the reference, which agrees with itself
    return {
        "file": values["file"],
        "sha256": values["sha256"],
        "precision": values["precision"],
        "float16_emulated": values["float16_emulated"],
        "accuracy": None if values["metrics"] is None else values["metrics"]["accuracy"],
        "agreement": 1.0 if paired is None else paired["agreement"],
        "logit_difference": None if paired is None else paired["logit_difference"],
        "accuracy_drop_points": None if paired is None else paired["accuracy_drop_points"],
        "accuracy_drop_interval_points": None if paired is None else paired["accuracy_drop_interval_points"],
        "passed": values.get("passed"),
    }


def _same(subject: Mapping[str, Any], name: str, sha256: str) -> bool:
    """Return whether a subject is that file: by hash if both have one, else by name."""
    if subject["sha256"] and sha256:
        return bool(subject["sha256"] == sha256)
    return bool(subject["file"] == name)


def remarks(verified: Mapping[str, Any]) -> list[str]:
    """List what a reader must know to read the figures correctly."""
    sentences = [_WHOSE] if verified["figure"] == "accuracy" else [_WHOSE, _UNLABELLED]
    return sentences + [_EMULATED] * any(one["float16_emulated"] for one in verified["runners"])


def markdown(report: Mapping[str, Any]) -> str:
    """Write the table for a pull request, one line per runner; empty without a verification."""
    if "verified" not in report:
        return ""
    verified = report["verified"]
    images, labelled = verified["images"], verified["figure"] == "accuracy"
    count = images["images"]
    columns = ("accuracy", "drop, points") if labelled else ()
    verdicts = {None: "reference", True: "passed", False: "FAILED"}
    rows = []
    for runner in verified["runners"]:
        cells: list[str] = []
        if labelled:
            drop = runner["accuracy_drop_points"]
            cells = [
                percentage(runner["accuracy"], count) + "*" * runner["float16_emulated"],
                "–" if drop is None else points(drop, count),
            ]
        rows.append((runner["name"], *cells, percentage(runner["agreement"], count), verdicts[runner["passed"]]))
    lines = ["", f"### Accuracy, from {verified['file']}: {count} images of {images['folder']}", ""]
    lines += markdown_table(("runner", *columns, "agreement", "verify"), rows)
    emulated = any(one["float16_emulated"] for one in verified["runners"])
    lines += ["", f"{_WHOSE}{f' {_EMULATED}' if emulated else ''}".replace("*", "\\*")]
    lines += [f"- {one['name']}: {one['reason']}." for one in verified["not_verified"]]
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any]) -> list[tuple[int, Markup]]:
    """Draw accuracy, or agreement without labels, against latency: a plot for each batch size."""
    name = report["verified"]["figure"]
    shares = {one["name"]: one[name] for one in report["verified"]["runners"] if one[name] is not None}
    drawn = []
    for batch in dict.fromkeys(timing["batch"] for timing in report["timings"]):
        shown = [
            Point(timing["name"], timing["latency_ms"]["p50"], shares[timing["name"]])
            for timing in report["timings"]
            if timing["batch"] == batch and timing["name"] in shares
        ]
        if shown:
            drawn.append((batch, plots.accuracies(shown, name, batch, report["verified"]["images"]["images"])))
    return drawn
