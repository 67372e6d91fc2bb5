"""Render a benchmark as an HTML page, from its JSON alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hemf_export.bench import accuracy, plots
from hemf_export.pages import report_page
from hemf_export.timing.intervals import Interval


def html(report: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        report: the JSON of a benchmark; parts that may be missing are left out.

    Raises:
        ValueError: the report lacks another part.
    """
    report = _completed(report)
    numbered = list(enumerate(report["timings"]))
    batches = [
        (batch, [(index, timing) for index, timing in numbered if timing["batch"] == batch])
        for batch in dict.fromkeys(timing["batch"] for timing in report["timings"])
    ]
    names = {name: re.sub(r" s$", ", s", name.replace("_", " ")) for name in report["method"]}
    verified = report.get("verified")
    return report_page.render(
        "bench.html", report, batches=batches, draw=plots,
        files=list(dict.fromkeys(timing["file"] for timing in report["timings"])),
        runners={timing["name"] for timing in report["timings"]},
        hashes={timing["file"]: timing["sha256"] for timing in report["timings"]},
        method=[(names[name], text) for name, text in report["method"].items()],
        accuracy_plots=accuracy.draw(report) if verified else (),
        accuracy_remarks=accuracy.remarks(verified) if verified else (),
    )  # fmt: skip


def _completed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Add what reports of earlier versions don't have: the speed-up, one over the ratio of latencies, and headlines."""
    timings = []
    for timing in report["timings"]:
        ratio = Interval(**{name: timing["ratio"][name] for name in ("median", "low", "high")})
        timings.append({"speed_up": ratio.inverse.to_dict(), **timing})
    return {"headlines": {}, **report, "timings": timings}
