"""A step of the GPU check: where it runs, what it finds, and how that is recorded."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hemf_export.files.errors import HemfError, MissingCapabilityError

Outcome = Literal["passed", "failed", "can't run"]
_SHOWN_FRAMES = 2


@dataclass(frozen=True)
class Place:
    """Where a step runs.

    Args:
        folder: folder for files; what one step makes, later ones reuse.
        device: PyTorch's device. "cpu" is for tests, with stand-ins for what needs a GPU.
        small: a third of the smallest network, and few repetitions: for tests too.
    """

    folder: Path
    device: Literal["cuda", "cpu"] = "cuda"
    small: bool = False


@dataclass(frozen=True)
class Check:
    """Result of one check of a step.

    Args:
        name: what was checked, in a few words; unique in its step.
        outcome: its result.
        found: what was measured, or the reason why it failed or can't run.
    """

    name: str
    outcome: Outcome
    found: str


class Findings:
    """Record of the checks that a step has made so far, and of the values that it measured.

    Args:
        tell: called after each check.

    Attributes:
        facts: measured values, in plain types.
        checks: results of its checks.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self.facts: dict[str, Any] = {}
        self.checks: list[Check] = []
        self._tell = tell

    def check(self, name: str, passed: bool, found: str) -> None:
        """Record the result of a check."""
        self._add(Check(name, "passed" if passed else "failed", found))

    def cannot(self, name: str, reason: str) -> None:
        """Record a check that this machine can't make."""
        self._add(Check(name, "can't run", reason))

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        self._tell()

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Go on after an error in the block: it becomes the result of a check.

        A MissingCapabilityError means that this machine can't make the check; any other exception that it failed.
        """
        try:
            yield
        except MissingCapabilityError as error:
            self.cannot(name, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a GPU's libraries raise is a finding
            self.check(name, False, reason(error))


Step = Callable[[Place, Findings], None]


@dataclass(frozen=True)
class Result:
    """Result of a step.

    Args:
        step: its name.
        outcome: "failed" if any check failed, "can't run" if none could be made.
        seconds: how long it ran.
        reason: why it failed as a whole or can't run; empty if its checks say so.
        checks: results of its checks.
        facts: measured values, in plain types.
    """

    step: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    checks: tuple[Check, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for a line of JSON."""
        return {**vars(self), "checks": [vars(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """Build a result from the plain types of `to_dict`."""
        return cls(**{**values, "checks": tuple(Check(**check) for check in values["checks"])})


def run(name: str, step: Step, place: Place, tell: Callable[[Result], None] = lambda result: None) -> Result:
    """Run a step in this process; whatever it raises becomes its result.

    Args:
        name: its name.
        step: the step.
        place: where it runs.
        tell: receives what was found so far after each check, in case that a later one ends the process.
    """
    findings = Findings(lambda: tell(_result(name, findings)))
    try:
        step(place, findings)
    except MissingCapabilityError as error:
        return _result(name, findings, "can't run", str(error))
    except Exception as error:  # noqa: BLE001 - see `Findings.attempt`
        return _result(name, findings, "failed", reason(error))
    return _result(name, findings)


def _result(name: str, findings: Findings, outcome: Outcome = "passed", why: str = "") -> Result:
    outcomes = {check.outcome for check in findings.checks}
    if "failed" in outcomes:
        outcome = "failed"
    elif outcome == "passed" and outcomes == {"can't run"}:
        outcome = "can't run"
    return Result(name, outcome, reason=why, checks=tuple(findings.checks), facts=findings.facts)


def reason(error: Exception) -> str:
    """Describe an exception in one line: our own by their message, others with the place that raised them."""
    if isinstance(error, HemfError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__][
        -_SHOWN_FRAMES:
    ]
    place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({place})"
