"""Accuracy beside latency in a benchmark's reports, from the JSON: plots and a table of a page, a table of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hemf_export.bench import accuracy_plot
from hemf_export.bench.accuracy_plot import Point
from hemf_export.bench.report import markdown_table
from hemf_export.figures import milliseconds, percent, points
from hemf_export.report_page import escaped, figure, listed, table

_WHOSE = "Of the files, as hemf-export verify measured it; not of the runs that were timed here."
_EMULATED = "* verified with float16 rounded as a GPU does; what was timed here need not round so."
_UNLABELLED = "Without labels there is no accuracy: agreement with the checkpoint is in its place."


def body(report: Mapping[str, Any]) -> str:
    """The part; empty where no verification was given."""
    if "verified" not in report:
        return ""
    verified = report["verified"]
    images, labelled = verified["images"], verified["figure"] == "accuracy"
    said = (
        f"<p>From {escaped(verified['file'])}: {figure(report, 'verified/images/images')} images of "
        f"{escaped(images['folder'])}{'' if labelled else ', without labels'}.</p>"
    )
    columns = ("accuracy", "drop, points (95 %)") if labelled else ()
    places = {one["name"]: number for number, one in enumerate(verified["runners"])}
    rows = [
        (*_timed(report, index), *_measured(report, places[timing["name"]]))
        for index, timing in enumerate(report["timings"])
        if timing["name"] in places
    ]
    remarks = [_WHOSE] if labelled else [_WHOSE, _UNLABELLED]
    if any(one["float16_emulated"] for one in verified["runners"]):
        remarks.append(_EMULATED)
    return (
        said
        + f'<div class="grid plots">{_plots(report)}</div>'
        + table(("runner", "batch", "p50 ms", *columns, "agreement", "verify"), rows)
        + "".join(f'<p class="soft">{escaped(text)}</p>' for text in remarks)
        + listed([f"{one['name']}: {one['reason']}." for one in verified["not_verified"]])
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The table for a pull request, a line a runner; empty where no verification was given."""
    if "verified" not in report:
        return ""
    verified = report["verified"]
    columns = ("accuracy", "drop, points") if verified["figure"] == "accuracy" else ()
    verdicts = {None: "reference", True: "passed", False: "FAILED"}
    rows = []
    for one in verified["runners"]:
        drop = one["accuracy_drop_points"]
        shown = f"{one['accuracy']:.2%}" + "*" * one["float16_emulated"], "–" if drop is None else points(drop)
        cells = shown if columns else ()
        rows.append((one["name"], *cells, f"{one['agreement']:.2%}", verdicts[one["passed"]]))
    images = verified["images"]
    lines = ["", f"### Accuracy, from {verified['file']}: {images['images']} images of {images['folder']}", ""]
    lines += markdown_table(("runner", *columns, "agreement", "verify"), rows)
    emulated = any(one["float16_emulated"] for one in verified["runners"])
    lines += ["", f"{_WHOSE}{f' {_EMULATED}' if emulated else ''}".replace("*", "\\*")]
    lines += [f"- {one['name']}: {one['reason']}." for one in verified["not_verified"]]
    return "\n".join(lines) + "\n"


def _plots(report: Mapping[str, Any]) -> str:
    name = report["verified"]["figure"]
    shares = {one["name"]: one[name] for one in report["verified"]["runners"] if one[name] is not None}
    drawn = []
    for batch in dict.fromkeys(timing["batch"] for timing in report["timings"]):
        found = [
            Point(timing["name"], timing["latency_ms"]["p50"], shares[timing["name"]])
            for timing in report["timings"]
            if timing["batch"] == batch and timing["name"] in shares
        ]
        if found:
            drawn.append(
                f'<div class="keep"><h3>Batch {escaped(batch)}</h3>{accuracy_plot.draw(found, name, batch)}</div>'
            )
    return "".join(drawn)


def _timed(report: Mapping[str, Any], index: int) -> tuple[str, str, str]:
    timing = report["timings"][index]
    return (
        escaped(timing["name"]), escaped(timing["batch"]),
        figure(report, f"timings/{index}/latency_ms/p50", milliseconds),
    )  # fmt: skip


def _measured(report: Mapping[str, Any], number: int) -> tuple[str, ...]:
    one, place = report["verified"]["runners"][number], f"verified/runners/{number}"
    cells = []
    if report["verified"]["figure"] == "accuracy":
        drop = figure(report, f"{place}/accuracy_drop_points", points)
        if one["accuracy_drop_interval_points"] is not None:
            ends = (figure(report, f"{place}/accuracy_drop_interval_points/{end}", points) for end in (0, 1))
            drop += f" ({' to '.join(ends)})"
        cells = [figure(report, f"{place}/accuracy", percent) + "*" * one["float16_emulated"], drop]
    verdicts = {None: "reference", True: '<span class="good">passed</span>', False: '<span class="bad">FAILED</span>'}
    return *cells, figure(report, f"{place}/agreement", percent), verdicts[one["passed"]]
