"""A small table as data: whoever shows it, a terminal or a notebook, lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table to show.

    Args:
        title: above it.
        columns: heads.
        rows: cells, as many as there are columns.
        words: columns of words; the others are figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: tuple[int, ...] = (0,)


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)
) -> list[str]:  # fmt: skip
    """Return the lines of a table in Markdown; columns in `words` align left, the others right."""
    rule = "".join("---|" if index in words else "---:|" for index in range(len(columns)))
    return [_line(columns), f"|{rule}", *map(_line, rows)]


def giga(count: int) -> str:
    """Format a count in billions: two decimals, or four below 0.1."""
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells) + " |"
