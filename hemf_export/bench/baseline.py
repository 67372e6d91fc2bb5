"""Latency ratios of a run beside those of an earlier one.

Latencies don't carry over to another day; ratios to the same first runner do, on a machine of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError
from hemf_export.timing.intervals import Interval


@dataclass(frozen=True)
class Change:
    """A ratio, before and now.

    Args:
        name: of the runner.
        batch: images a call.
        before: its ratio in the baseline.
        now: in this run.
        max_slowdown: that is allowed, as a share.
    """

    name: str
    batch: int
    before: Interval
    now: Interval
    max_slowdown: float

    @property
    def slowdown(self) -> float:
        """How much the ratio grew, as a share; negative where it sank."""
        return self.now.median / self.before.median - 1

    @property
    def beyond(self) -> bool:
        """Whether the ratios differ by more than is allowed."""
        return self.slowdown > self.max_slowdown

    @property
    def worse(self) -> bool:
        """Whether it is beyond, and more than chance: the intervals don't touch."""
        return self.beyond and self.now.low > self.before.high

    @property
    def outcome(self) -> str:
        """Verdict in a word: worse, uncertain or ok."""
        if self.worse:
            return "worse"
        return "uncertain" if self.beyond else "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "name": self.name, "batch": self.batch, "before": self.before.to_dict(), "now": self.now.to_dict(),
            "slowdown": self.slowdown, "outcome": self.outcome,
        }  # fmt: skip


@dataclass(frozen=True)
class BaselineComparison:
    """Ratios of this run beside those of an earlier one.

    Args:
        changes: of every runner and batch size that both have, but the first runner's, which is 1 in each.
        notes: what spoils the comparison, and what only one of them has.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """A table for a pull request, to be put after the report's."""
        lines = ["", "### Beside the baseline", "", "| runner | batch | ratio | before | change | |"]
        lines.append("|---|---:|---:|---:|---:|---|")
        for change in self.changes:
            ratios = f"{change.now.median:.2f} | {change.before.median:.2f} | {change.slowdown:+.0%}"
            lines.append(f"| {change.name} | {change.batch} | {ratios} | {change.outcome} |")
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    @property
    def worse(self) -> list[Change]:
        """Changes that fail the comparison."""
        return [change for change in self.changes if change.worse]


def read(path: Path) -> dict[str, Any]:
    """Read the JSON of an earlier run.

    Raises:
        BadInputError: it isn't one.
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
        BadInputError: their first runners differ at some batch size: the ratios are to different things.
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
    """The first runner of each batch size."""
    references: dict[int, str] = {}
    for timing in report["timings"]:
        references.setdefault(int(timing["batch"]), str(timing["name"]))
    return references


def _lookup(report: Mapping[str, Any], place: tuple[str, str]) -> Any:
    part = report["conditions"].get(place[0])
    return part.get(place[1]) if isinstance(part, dict) else None
