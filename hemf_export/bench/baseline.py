"""Compare the latency ratios of a run with those of an earlier one.

Latencies aren't comparable between days; ratios to the same first runner are, on a machine of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError
from hemf_export.pages.table import Table
from hemf_export.timing.intervals import Interval


@dataclass(frozen=True)
class Change:
    """Latency ratio of a runner in the baseline and now.

    Args:
        name: name of the runner.
        batch: images per call.
        before: ratio in the baseline.
        now: ratio in this run.
        max_slowdown: allowed growth of the ratio, as a share.
    """

    name: str
    batch: int
    before: Interval
    now: Interval
    max_slowdown: float

    @property
    def slowdown(self) -> float:
        """Growth of the ratio, as a share; negative if it fell."""
        return self.now.median / self.before.median - 1

    @property
    def beyond(self) -> bool:
        """Whether the ratio grew by more than is allowed."""
        return self.slowdown > self.max_slowdown

    @property
    def worse(self) -> bool:
        """Whether it is beyond, and significantly: the intervals don't overlap."""
        return self.beyond and self.now.low > self.before.high

    @property
    def outcome(self) -> str:
        """Verdict in a word: worse, uncertain or ok."""
        if self.worse:
            return "worse"
        return "uncertain" if self.beyond else "ok"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        return {
            "name": self.name, "batch": self.batch, "before": self.before.to_dict(), "now": self.now.to_dict(),
            "slowdown": self.slowdown, "outcome": self.outcome,
        }  # fmt: skip


@dataclass(frozen=True)
class BaselineComparison:
    """Comparison of this run's ratios with those of an earlier one.

    Args:
        changes: changes for every runner and batch size in both, except the first runner, whose ratio is 1.
        notes: reasons to doubt the comparison, and what only one of the runs has.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """Return a table of the ratios before and now."""
        rows = [
            (change.name, str(change.batch), f"{change.now.median:.2f}", f"{change.before.median:.2f}",
             f"{change.slowdown:+.0%}", change.outcome)
            for change in self.changes
        ]  # fmt: skip
        return Table("Beside the baseline", ("", "batch", "ratio", "in the baseline", "change", ""), rows)

    def markdown(self) -> str:
        """Return a Markdown table for a pull request, to append to the report."""
        lines = ["", "### Beside the baseline", "", "| runner | batch | ratio | before | change | |"]
        lines.append("|---|---:|---:|---:|---:|---|")
        for change in self.changes:
            ratios = f"{change.now.median:.2f} | {change.before.median:.2f} | {change.slowdown:+.0%}"
            lines.append(f"| {change.name} | {change.batch} | {ratios} | {change.outcome} |")
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    @property
    def worse(self) -> list[Change]:
        """Return the changes that fail the comparison."""
        return [change for change in self.changes if change.worse]


def read(path: Path) -> dict[str, Any]:
    """Read the JSON of an earlier run.

    Raises:
        BadInputError: it can't be read, or isn't a benchmark.
    """
    hint = "Make one: `benchmark(*FILE, output=BENCH.json)`."
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"The baseline {path} can't be read: {error.strerror or error}.", hint) from error
    except ValueError as error:
        raise BadInputError(f"The baseline {path} is not JSON: {error}.", hint) from error
    try:
        if not values["bench"] or not isinstance(values["conditions"]["cpu"], dict):
            raise ValueError("no format")
        _ratios(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"The baseline {path} is not a report of a benchmark ({error}).", hint) from error
    return dict(values)


def compare(before: Mapping[str, Any], now: Mapping[str, Any], *, max_slowdown: float) -> BaselineComparison:
    """Compare two reports, as `BenchReport.to_dict` gives them.

    Raises:
        BadInputError: their first runners differ at some batch size, so that the ratios aren't comparable.
    """
    old, new = _ratios(before), _ratios(now)
    first_old, first_new = _references(before), _references(now)
    for batch in first_old.keys() & first_new.keys():
        if first_old[batch] != first_new[batch]:
            raise BadInputError(
                f"At batch {batch} the baseline's ratios are to {first_old[batch]}, these to {first_new[batch]}.",
                "Name the same files and runners as for the baseline.",
            )
    both = [key for key in new if key in old and key[0] != first_new[key[1]]]
    if not both:
        raise BadInputError(
            "The baseline and this run have no runner in common but the first.",
            "Name the same files and runners as for the baseline.",
        )
    notes = []
    for place, what in ((("cpu", "model"), "processor"), (("cpu", "threads"), "threads"), (("gpu", "name"), "GPU")):
        was, is_ = _lookup(before, place), _lookup(now, place)
        if was != is_:
            notes.append(f"The baseline was made with another {what} ({was}, now {is_}): ratios may differ for that.")
    gone = [f"{name} at batch {batch}" for name, batch in old if (name, batch) not in new and batch in first_new]
    if gone:
        notes.append(f"In the baseline, and not here: {'; '.join(gone)}.")
    changes = tuple(Change(name, batch, old[name, batch], new[name, batch], max_slowdown) for name, batch in both)
    return BaselineComparison(changes, tuple(notes))


def _ratios(report: Mapping[str, Any]) -> dict[tuple[str, int], Interval]:
    return {
        (str(timing["name"]), int(timing["batch"])): Interval(
            *(float(timing["ratio"][key]) for key in ("median", "low", "high"))
        )
        for timing in report["timings"]
    }


def _references(report: Mapping[str, Any]) -> dict[int, str]:
    """Return the first runner of each batch size."""
    references: dict[int, str] = {}
    for timing in report["timings"]:
        references.setdefault(int(timing["batch"]), str(timing["name"]))
    return references


def _lookup(report: Mapping[str, Any], place: tuple[str, str]) -> Any:
    part = report["conditions"].get(place[0])
    return part.get(place[1]) if isinstance(part, dict) else None
