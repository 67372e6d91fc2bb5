"""Print results to stdout, and messages and progress to stderr.

Everything is printed as plain text: names from files may contain markup, emoji codes or terminal control sequences,
which are shown escaped, see `files.printable`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hemf_export.cli.flags import in_flags
from hemf_export.cli.streams import json_text
from hemf_export.files.printable import printable, printable_lines
from hemf_export.pages.figures import size

PLAIN_WIDTH = 130  # width of a table in a file or a pipe
NARROWEST_WORDS = 24  # narrowest width to which text columns are folded
__all__ = [
    "facts", "next_command", "print_json", "printable", "result", "results", "say", "size", "table", "talk", "warn",
]  # fmt: skip

results = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


class _Talk(Console):
    """Standard error with a line that may be left open and completed later; other text starts a new line."""

    line_is_open = False

    def print(self, *objects: Any, **settings: Any) -> None:
        """See `rich.console.Console.print`."""
        self.end_line()
        super().print(*objects, **settings)

    def open_line(self, text: str) -> None:
        """Write a text without ending its line."""
        self.print(Text(text), end="", soft_wrap=True)
        self.line_is_open = True

    def end_line(self, text: str = "") -> None:
        """Append a text to an open line, and end it."""
        if self.line_is_open:
            self.line_is_open = False
            super().print(Text(text), soft_wrap=True)


talk = _Talk(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a message to stderr."""
    talk.print(Text(printable_lines(in_flags(text))), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    talk.print(Text.assemble(("warning:", "yellow"), " ", printable_lines(in_flags(text))), soft_wrap=True)


def next_command(*words: str | Path) -> None:
    """Print the proposed next command, the last line of a result; paths are quoted for a shell."""
    command = " ".join(_shell_word(word) if isinstance(word, Path) else word for word in words)
    talk.print(Text.assemble(("next:", "dim"), " ", printable(command)), soft_wrap=True)


def result(text: str, *, dim: bool = False) -> None:
    """Print a line of results to stdout."""
    results.print(Text(printable_lines(text), "dim" if dim else ""), soft_wrap=not dim)


def print_json(values: Any, *, indent: int | None = 2, allow_nan: bool = True) -> None:
    """Print a result to stdout as JSON."""
    sys.stdout.write(json_text(values, indent=indent, allow_nan=allow_nan) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int] = (0,)) -> None:
    """Print a short table to stdout; columns in `words` fold and align left, the others align right."""
    _title(title)
    shown = [[printable(cell) for cell in row] for row in rows]
    rendered = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        left = index in words
        widest = max((len(row[index]) for row in shown), default=0)
        least = min(widest, NARROWEST_WORDS) if left else widest
        rendered.add_column(
            Text(printable(column)), justify="left" if left else "right", no_wrap=not left, overflow="fold",
            min_width=least,
        )  # fmt: skip
    for row in shown:
        rendered.add_row(*(Text(cell) for cell in row))
    results.print(_Unpadded(rendered))


def facts(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values to stdout, one pair per line."""
    _title(title)
    rendered = Table(show_header=False, box=None, pad_edge=False)
    rendered.add_column(style="dim", no_wrap=True)
    rendered.add_column(overflow="fold")
    for name, value in rows:
        rendered.add_row(Text(printable(name)), Text(printable(value)))
    results.print(_Unpadded(rendered))


class _Unpadded:
    """Table without trailing blanks."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self._table, options, pad=False):
            while line and not line[-1].text.rstrip():
                line.pop()
            if line:
                last = line[-1]
                line[-1] = Segment(last.text.rstrip(), last.style, last.control)
            yield from line
            yield Segment.line()


def _title(text: str) -> None:
    """Print a heading; a leading line break separates it from the text above."""
    if text.startswith("\n"):
        results.print()
    results.print(Text(printable(text.removeprefix("\n")), "bold"), soft_wrap=True)


def _shell_word(path: Path) -> str:
    """Quote a path for a shell, whatever characters it has."""
    plain = str(path)
    if plain.isprintable():
        return shlex.quote(plain)
    escaped = "".join(
        sign if sign.isprintable() and sign not in "'\\" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(sign))
        for sign in plain
    )
    return f"$'{escaped}'"
