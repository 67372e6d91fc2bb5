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

    def markdown(self) -> str:
        """Return it as Markdown, without the title: columns of words on the left, figures on the right."""
        marks = ["---" if index in self.words else "---:" for index in range(len(self.columns))]
        return "\n".join(_line(cells) for cells in (self.columns, marks, *self.rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
