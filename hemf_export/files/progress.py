"""Progress of library functions: one protocol, silent by default. Knows nothing of terminals.

A function opens a task for as long as its work takes, and functions that it calls open nested ones. The receiver
decides how deep to show them: a terminal may show all open tasks, a log the outermost alone.
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
        """Set how much is done and, if given, the new total and text."""


class Progress(Protocol):
    """Receiver of progress. Its methods are called from the thread that called the function."""

    def task(self, text: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task for the length of a `with` block.

        Args:
            text: the work, as a participle: "Recording ranges".
            total: number of items; None if that isn't known.
            unit: what the items are: "images". "bytes" and "s" are shown as sizes and times.
        """

    def note(self, text: str) -> None:
        """Report a remark that the user should see before the end; nothing failed."""

    def event(self, event: object) -> None:
        """Report an intermediate result: a frozen dataclass, such as an epoch's metrics."""


class _Idle:
    """Task that ignores everything."""

    def advance(self, count: float = 1) -> None:
        """See `Task.advance`."""

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        """See `Task.update`."""


IDLE: Task = _Idle()


class Silent:
    """Receiver that ignores everything; base class for receivers that handle a part."""

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """See `Progress.task`."""
        yield IDLE

    def note(self, text: str) -> None:
        """See `Progress.note`."""

    def event(self, event: object) -> None:
        """See `Progress.event`."""


SILENT: Progress = Silent()
