"""`hemf-export doctor`: what this machine has, what commands lack, and the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hemf_export.cli.options import SECONDS, Command, json_option
from hemf_export.files.errors import MissingCapabilityError

if TYPE_CHECKING:
    from hemf_export.doctor.checkup import Report
    from hemf_export.doctor.components import Component


@click.command("doctor", cls=Command)
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=SECONDS,
    help="Seconds that an import may take.",
)
@json_option()
def command(timeout: float, as_json: bool) -> None:
    """Show what this machine has, which commands can work on it, and the fix for what they lack.

    Every package is imported in a child process: one that crashes or hangs is shown as broken. Ends with 4 where
    train, onnx, calibrate or bench can't work on the CPU; a GPU and TensorRT are optional.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.doctor import checkup

    with ConsoleProgress().task("Importing each package in a process of its own"):
        report = checkup.examine(timeout_s=timeout)
    failure = None if report.fit else _failure(report)
    if as_json:
        _print_json(report, failure)
        return
    console.table("this machine", ("", "found", "status", "needed by", "fix"), _rows(report), words=range(5))
    console.results.print()
    cells = [(ability.command, "can" if ability.can else "cannot", ability.reason) for ability in report.abilities]
    console.table("commands", ("", "here", "reason"), cells, words=range(3))
    if failure is not None:
        raise failure


def _rows(report: Report) -> list[tuple[str, ...]]:
    """A line for each component; packages that only matter when they fail share one."""
    quiet = [component for component in report.components if _quiet(component)]
    rows = [_cells(component) for component in report.components if component not in quiet]
    if quiet:
        shared = ", ".join(f"{component.name} {component.found}" for component in quiet)
        place = [row[0] for row in rows].index("driver")
        rows.insert(place, ("other packages", shared, "ok", "", ""))
    return rows


def _quiet(component: Component) -> bool:
    from hemf_export.doctor.components import OTHER_PACKAGES

    return component.name in OTHER_PACKAGES and component.status == "ok"


def _cells(component: Component) -> tuple[str, ...]:
    from hemf_export.doctor.checkup import USES

    commands = {use.command for use in USES}
    users = "every command" if commands <= set(component.needed_by) else ", ".join(component.needed_by)
    return component.name, component.found, component.status, users, component.fix


def _failure(report: Report) -> MissingCapabilityError:
    commands = ", ".join(ability.command for ability in report.unfit)
    reasons = ", ".join(dict.fromkeys(ability.reason for ability in report.unfit))
    lacking = {name for ability in report.unfit for name in ability.lacking}
    fixes = dict.fromkeys(component.fix for component in report.components if component.name in lacking)
    return MissingCapabilityError(f"Some commands can't work here ({commands}): {reasons}.", "\n  ".join(fixes))


def _print_json(report: Report, failure: MissingCapabilityError | None) -> None:
    from hemf_export.cli import console, streams

    values: dict[str, Any] = report.to_dict()
    if failure is not None:
        values |= {"error": failure.message, "hint": failure.hint, "exit_code": failure.exit_code}
    console.print_json(values)
    if failure is not None:
        streams.say_error(failure.message, failure.hint)
        # Not as an error: that would print a second JSON value. Not with click's exit: without its standalone mode,
        # that code is only returned.
        raise SystemExit(failure.exit_code)
