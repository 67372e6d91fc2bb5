"""What commands print with: results on stdout, talk and progress on stderr.

Whatever is printed is plain text: names out of files may hold markup, emoji codes or control sequences of a terminal,
and are shown as they are spelled, see `hemf_export.streams.printable`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hemf_export.streams import json_text, printable, printable_lines

PLAIN_WIDTH = 130  # of a table that goes to a file or a pipe, where there is no window to fit
NARROWEST_WORDS = 24  # columns that text is not folded below
__all__ = [
    "PhaseBar", "advance", "bar", "facts", "next_command", "print_json", "printable", "result", "results", "say",
    "size", "step", "table", "talk", "warn",
]  # fmt: skip

results = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
talk = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of talk, on stderr."""
    talk.print(Text(printable_lines(text)), soft_wrap=True)


def warn(text: str) -> None:
    """A warning, on stderr."""
    talk.print(Text.assemble(("warning:", "yellow"), " ", printable_lines(text)), soft_wrap=True)


def next_command(*words: str | Path) -> None:
    """The command that a user would run next, the last line of a result; paths are quoted for a shell."""
    command = " ".join(_shell_word(word) if isinstance(word, Path) else word for word in words)
    talk.print(Text.assemble(("next:", "dim"), " ", printable(command)), soft_wrap=True)


def result(text: str, *, dim: bool = False) -> None:
    """A line of results, on stdout."""
    results.print(Text(printable_lines(text), "dim" if dim else ""), soft_wrap=not dim)


def print_json(values: Any, *, indent: int | None = 2, allow_nan: bool = True) -> None:
    """A result as JSON, on stdout."""
    sys.stdout.write(json_text(values, indent=indent, allow_nan=allow_nan) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int] = (0,)) -> None:
    """A short table on stdout; the columns of `words` fold and are aligned to the left, numbers to the right."""
    _title(title)
    shown = [[printable(cell) for cell in row] for row in rows]
    made = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        left = index in words
        widest = max((len(row[index]) for row in shown), default=0)
        least = min(widest, NARROWEST_WORDS) if left else widest
        made.add_column(
            Text(printable(column)), justify="left" if left else "right", no_wrap=not left, overflow="fold",
            min_width=least,
        )  # fmt: skip
    for row in shown:
        made.add_row(*(Text(cell) for cell in row))
    results.print(made)


def facts(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line, on stdout."""
    _title(title)
    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text(printable(name)), Text(printable(value)))
    results.print(made)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show that something is under way: a spinner with the time on a terminal, one line elsewhere."""
    if not talk.is_terminal:
        say(f"{text} …")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=talk, transient=True) as progress:
        progress.add_task(printable(text))
        yield
    say(f"✓ {text}")


def bar(text: str, total: int | None) -> Progress:
    """A started bar over `total` items (None: some), shown on a terminal only; `advance` it, then `stop()` it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal)
    progress.add_task(printable(text), total=total)
    progress.start()
    return progress


def advance(progress: Progress, count: int = 1) -> None:
    """Items of the bar are done."""
    progress.advance(progress.task_ids[0], count)


def size(number_of_bytes: int) -> str:
    """Bytes for people: 3.1 MB."""
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _title(text: str) -> None:
    """A heading; with a line break before it, one that stands apart from what is above."""
    if text.startswith("\n"):
        results.print()
    results.print(Text(printable(text.removeprefix("\n")), "bold"))


def _shell_word(path: Path) -> str:
    """A path as a shell takes it, whatever is in its name."""
    plain = str(path)
    if plain.isprintable():
        return shlex.quote(plain)
    escaped = "".join(
        sign if sign.isprintable() and sign not in "'\\" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(sign))
        for sign in plain
    )
    return f"$'{escaped}'"


class PhaseBar:
    """The outermost phase of a build as a bar, on a terminal; elsewhere one line at the start."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.progress: Progress | None = None

    def update(self, phase: str, step: int, steps: int) -> None:
        """Phases come nested and repeated: the bar shows the one that moved last."""
        if self.progress is None:
            if not talk.is_terminal:
                say(f"{self.text} …")
            self.progress = bar(self.text, max(1, steps))
        self.progress.update(
            self.progress.task_ids[0],
            description=printable(f"{self.text}: {phase}"),
            total=max(1, steps),
            completed=step,
        )

    def stop(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
