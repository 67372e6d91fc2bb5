"""`hemf-export doctor`: what this machine has, what commands lack, and the fix. --gpu tries its GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import hemf_export
from hemf_export.cli.flags import in_flags
from hemf_export.cli.options import MINUTES, PATH, SECONDS, Command, json_option
from hemf_export.files.errors import HemfError, UsageError

if TYPE_CHECKING:
    from hemf_export.pages.table import Table


@click.command("doctor", cls=Command, groups={"With --gpu": ("output", "minutes", "steps")})
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=SECONDS,
    help="Longest time that an import may take, in seconds.",
)
@click.option("--gpu", is_flag=True, help="Try everything that needs a GPU on this machine's, for up to ten minutes.")
@click.option("-o", "--output", type=PATH, help="Folder for the report.  [default: gpu-check]")
@click.option("--minutes", type=MINUTES, help="Longest time for all steps.  [default: 10]")
@click.option("--step", "steps", multiple=True, metavar="NAME", help="Only this step; may be given several times.")
@json_option()
def command(
    timeout: float, gpu: bool, output: Path | None, minutes: float | None, steps: tuple[str, ...], as_json: bool
) -> None:
    """Show what this machine has, which commands work on it, and how to get what is missing.

    Every package is imported in a child process, so that one that crashes or hangs is reported as broken. Ends with
    4 if train, onnx, calibrate or bench can't work on the CPU; a GPU and TensorRT are optional.

    With --gpu it trains, builds and runs engines, times and serves them on this machine's GPU, each step in a process
    of its own, and writes a report that can be sent. Ends with 3 if a step fails, and with 4 without a GPU.
    """
    if gpu:
        _check_gpu(output, minutes, steps, as_json)
        return
    if output is not None or minutes is not None or steps:
        raise UsageError("--output, --minutes and --step need --gpu.")
    from hemf_export.cli.progress import ConsoleProgress

    checkup = hemf_export.doctor(timeout=timeout, progress=ConsoleProgress())
    _show(checkup.tables, checkup.to_dict(), checkup.problem, as_json)


def _check_gpu(output: Path | None, minutes: float | None, steps: Sequence[str], as_json: bool) -> None:
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    check = hemf_export.check_gpu(output or "gpu-check", steps=steps, minutes=minutes or 10, progress=ConsoleProgress())
    if not as_json:
        console.result(check.verdict)
        console.results.print()
    _show(
        check.tables,
        check.to_dict(),
        check.problem,
        as_json,
        written=f"Written to {check.path}: report.md, steps.jsonl",
    )


def _show(
    tables: Sequence[Table], values: dict[str, object], problem: HemfError | None, as_json: bool, written: str = ""
) -> None:
    """Print tables or JSON, and end with the problem if there is one."""
    from hemf_export.cli import console, streams

    if not as_json:
        for number, table in enumerate(tables):
            if number:
                console.results.print()
            console.table(table.title, table.columns, table.rows, words=table.words)
        if written:
            console.say(written)
        if problem is not None:
            raise problem
        return
    if problem is None:
        console.print_json(values)
    else:
        message, hint = in_flags(problem.message), in_flags(problem.hint or "") or None
        console.print_json({**values, "error": message, "hint": hint, "exit_code": problem.exit_code})
        streams.say_error(message, hint)
        # Not an error, which would print a second JSON value; not click's exit, which without standalone mode only
        # returns the code.
        raise SystemExit(problem.exit_code)
