"""The claims that the documentation makes of GPUs, and what the steps say of each: see claims.toml and docs/gpu.md."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from hemf_export.gpu_check.step import Result

State = Literal["confirmed", "failed", "not tried"]


@dataclass(frozen=True)
class Claim:
    """A claim of the documentation that takes a GPU to confirm.

    Args:
        id: its name.
        claim: the claim, in a sentence.
        where: pages that make it.
        step: step that tries it; empty if none does yet.
        checks: checks of the step that try it; none for all of them.
        gpu: how the name of a GPU that it is about starts; empty for any.
        confirmed: GPU, date and version of the report that confirmed it; empty if none has.
    """

    id: str
    claim: str
    where: tuple[str, ...]
    step: str = ""
    checks: tuple[str, ...] = ()
    gpu: str = ""
    confirmed: str = ""


def read() -> tuple[Claim, ...]:
    """Read the claims, in the order of the documentation."""
    text = resources.files("hemf_export.gpu_check").joinpath("claims.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["claims"]
    return tuple(
        Claim(**{**entry, "where": tuple(entry["where"]), "checks": tuple(entry.get("checks", ()))})
        for entry in entries
    )


def state(claim: Claim, results: Sequence[Result], gpu: str | None) -> State:
    """Decide what the results of one GPU say of a claim."""
    result = next((one for one in results if one.step == claim.step), None)
    if result is None or gpu is None or not gpu.removeprefix("NVIDIA ").startswith(claim.gpu):
        return "not tried"
    checks = [check for check in result.checks if not claim.checks or check.name in claim.checks]
    outcomes = {check.outcome for check in checks}
    if not claim.checks:
        outcomes.add(result.outcome)
    if "failed" in outcomes:
        return "failed"
    tried = {check.name for check in checks if check.outcome == "passed"}
    complete = set(claim.checks) <= tried if claim.checks else result.outcome == "passed"
    return "confirmed" if complete else "not tried"
