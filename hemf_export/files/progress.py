"""What library functions report while they work: one protocol, silent by default. Knows nothing of terminals.

A function opens a task for as long as its work takes; functions that it calls open theirs within. Whoever shows tasks
decides how deep: a terminal may show all that are open, a log the outermost alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """Work in progress, as long as its `with` block runs."""

    def advance(self, count: float = 1) -> None:
        """Report that `count` more of the total are done."""

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        """Set how far the work is, and, if given, how much it is and what it is called now."""


class Progress(Protocol):
    """Receives what a function reports. Called from the thread that called the function."""

    def task(self, text: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task for the length of a `with` block.

        Args:
            text: what is done, as a participle: "Recording ranges".
            total: how many items there are; None if that isn't known.
            unit: what the items are: "images". "bytes" and "s" are shown as sizes and times.
        """

    def note(self, text: str) -> None:
        """Tell the user something that they should know before the end and that fails nothing."""

    def event(self, event: object) -> None:
        """Hand over a result that is known before the end: a frozen dataclass, such as an epoch's figures."""


class _Idle:
    """Report nothing."""

    def advance(self, count: float = 1) -> None:
        """See `Task.advance`."""

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        """See `Task.update`."""


IDLE: Task = _Idle()


class Silent:
    """Report nothing. Base class for receivers that care about a part of what is reported."""

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """See `Progress.task`."""
        yield IDLE

    def note(self, text: str) -> None:
        """See `Progress.note`."""

    def event(self, event: object) -> None:
        """See `Progress.event`."""


SILENT: Progress = Silent()
