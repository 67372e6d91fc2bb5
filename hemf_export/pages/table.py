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
