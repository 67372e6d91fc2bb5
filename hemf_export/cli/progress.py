"""Show progress: bars on a terminal, elsewhere a line for each step with its duration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.progress import TaskID as BarID
from rich.text import Text

from hemf_export.cli import console
from hemf_export.files.printable import printable
from hemf_export.files.progress import IDLE, Task

_WORTH_A_LINE_S = 1.0  # shortest task that leaves a line on a terminal


class ConsoleProgress:
    """Progress of one command, shown on standard error.

    On a terminal all open tasks are shown while they run, and an outermost one that took a while leaves a line.
    Elsewhere an outermost task is a line, which is started with the task and gets its duration at the end.

    Args:
        show: handles events.
    """

    def __init__(self, show: Callable[[object], None] = lambda event: None) -> None:
        self._show = show
        self._depth = 0
        self._bars: Bars | None = None

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """See `files.progress.Progress.task`."""
        shown = self._on_terminal if console.talk.is_terminal else self._in_lines
        self._depth += 1
        try:
            with shown(text, total, unit) as task:
                yield task
        finally:
            self._depth -= 1

    def note(self, text: str) -> None:
        """See `files.progress.Progress.note`."""
        console.warn(text)

    def event(self, event: object) -> None:
        """See `files.progress.Progress.event`."""
        self._show(event)

    @contextmanager
    def _on_terminal(self, text: str, total: float | None, unit: str) -> Iterator[Task]:
        if self._bars is not None:
            with _bar(self._bars, text, total, unit) as task:
                yield task
            return
        started = time.monotonic()
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), _Bar(), _Count(), TimeElapsedColumn()
        try:
            with (
                Bars(*columns, console=console.talk, transient=True) as self._bars,
                _bar(self._bars, text, total, unit) as task,
            ):
                yield task
        finally:
            self._bars = None
        if (seconds := time.monotonic() - started) >= _WORTH_A_LINE_S:
            console.talk.print(Text.assemble("✓ ", printable(text), (f"  {duration(seconds)}", "dim")), soft_wrap=True)

    @contextmanager
    def _in_lines(self, text: str, total: float | None, unit: str) -> Iterator[Task]:
        if self._depth > 1:
            yield IDLE
            return
        started = time.monotonic()
        console.talk.open_line(f"{printable(text)} …")
        try:
            yield IDLE
        except BaseException:
            console.talk.end_line()
            raise
        if not console.talk.line_is_open:  # a message has ended it meanwhile
            console.talk.open_line(f"{printable(text)} …")
        console.talk.end_line(f" {duration(time.monotonic() - started)}")


@contextmanager
def _bar(bars: Bars, text: str, total: float | None, unit: str) -> Iterator[Task]:
    bar = bars.add_task(printable(text), total=total, unit=unit)
    try:
        yield _ShownTask(bars, bar)
    finally:
        bars.remove_task(bar)


class _ShownTask:
    def __init__(self, bars: Bars, bar: BarID) -> None:
        self._bars, self._bar = bars, bar

    def advance(self, count: float = 1) -> None:
        self._bars.advance(self._bar, count)

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        description = None if text is None else printable(text)
        self._bars.update(self._bar, completed=completed, total=total, description=description)


class _Bar(BarColumn):
    """Bar of a task with a known total; without one, the spinner suffices."""

    def render(self, task: BarTask) -> Text:  # type: ignore[override] # a bar or nothing
        return Text() if task.total is None else super().render(task)  # type: ignore[return-value]


class _Count(ProgressColumn):
    """Column of the completed and total number, with the unit."""

    def render(self, task: BarTask) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text()
        if unit == "bytes":
            return Text(f"{console.size(int(task.completed))} of {console.size(int(task.total))}")
        return Text(f"{task.completed:.0f}/{task.total:.0f} {unit}".rstrip())


def duration(seconds: float) -> str:
    """Format a duration: 3.1 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
