"""Report of a GPU check: tables for a terminal, and a Markdown page to send."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hemf_export.gpu_check import claims as claimed
from hemf_export.gpu_check.step import Result
from hemf_export.pages.table import Table, markdown_table


def verdict(results: Sequence[Result], gpu: str | None) -> str:
    """Describe the result in a sentence."""
    if gpu is None:
        return f"No GPU: none of {len(results)} steps could run."
    counts = Counter(result.outcome for result in results)
    parts = [f"{counts['passed']} of {len(results)} steps passed", f"{counts['failed']} failed"]
    if elsewhere := counts["can't run"]:
        parts.append(f"{elsewhere} can't run here")
    return f"{gpu}: {', '.join(parts)}."


def steps(results: Sequence[Result]) -> Table:
    """Table with a row for each step that passed or can't run as a whole, and for each check of the others."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        lead: tuple[str, ...] = (result.step, result.outcome, f"{result.seconds:.0f} s" if result.seconds else "")
        if result.reason:
            rows.append((*lead, "", result.reason))
            lead = ("", "", "")
        for check in result.checks:
            found = check.found if check.outcome == "passed" else f"{check.outcome}: {check.found}"
            rows.append((*lead, check.name, found))
            lead = ("", "", "")
        if lead[0]:
            rows.append((*lead, "", ""))
    return Table("steps", ("step", "result", "time", "check", "found"), rows, words=(0, 1, 3, 4))


def claims(results: Sequence[Result], gpu: str | None, *, tried: bool = False) -> Table:
    """Table of the documentation's claims, or of those that were tried, with what this GPU says of each."""
    states = [(claimed.state(claim, results, gpu), claim) for claim in claimed.read()]
    rows = [(state, claim.step, claim.claim) for state, claim in states if not tried or state != "not tried"]
    return Table("what the documentation claims", ("here", "by step", "claim"), rows, words=(0, 1, 2))


def markdown(results: Sequence[Result], values: Mapping[str, Any]) -> str:
    """Write the page: verdict, machine, tables, and all measured values."""
    gpu = values["gpu"]
    tables = [
        "\n".join((f"## {table.title.capitalize()}", "", *markdown_table(table.columns, table.rows, table.words)))
        for table in (steps(results), claims(results, gpu))
    ]
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    facts = {result.step: result.facts for result in results if result.facts}
    return "\n\n".join((
        "# GPU check", f"**{values['verdict']}**",
        f"hemf-export {values['hemf_export']}, {values['date']}. {versions}.", *tables, "## Measured values",
        "```json\n" + json.dumps(facts, indent=2, default=str) + "\n```",
    )) + "\n"  # fmt: skip
