"""`hemf-export doctor`: what this machine has, what commands lack, and the fix."""

from __future__ import annotations

import click

import hemf_export
from hemf_export.cli.options import SECONDS, Command, json_option


@click.command("doctor", cls=Command)
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=SECONDS,
    help="Longest time that an import may take, in seconds.",
)
@json_option()
def command(timeout: float, as_json: bool) -> None:
    """Show what this machine has, which commands work on it, and how to get what is missing.

    Every package is imported in a child process, so that one that crashes or hangs is reported as broken. Ends with
    4 if train, onnx, calibrate or bench can't work on the CPU; a GPU and TensorRT are optional.
    """
    from hemf_export.cli import console, streams
    from hemf_export.cli.progress import ConsoleProgress

    checkup = hemf_export.doctor(timeout=timeout, progress=ConsoleProgress())
    if not as_json:
        machine, commands = checkup.tables
        console.table(machine.title, machine.columns, machine.rows, words=machine.words)
        console.results.print()
        console.table(commands.title, commands.columns, commands.rows, words=commands.words)
        if checkup.problem is not None:
            raise checkup.problem
        return
    values, problem = checkup.to_dict(), checkup.problem
    if problem is not None:
        values |= {"error": problem.message, "hint": problem.hint, "exit_code": problem.exit_code}
    console.print_json(values)
    if problem is not None:
        streams.say_error(problem.message, problem.hint)
        # Not an error, which would print a second JSON value; not click's exit, which without standalone mode only
        # returns the code.
        raise SystemExit(problem.exit_code)
