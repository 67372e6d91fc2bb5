"""What the fake TensorRT notes while it runs, and the streams that its work waits on.

What a caller does against the interface's rules, and the fake lets pass as TensorRT would, stands in `records.misuse`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Records:
    """What was done since the test began.

    Args:
        misuse: against the rules.
        deserialized: plans that native code was let loose on, and whether they might run code of their own on the host.
        contexts: that were made.
        compiled: batch sizes that TensorRT-RTX compiled kernels for, as its runtime cache had none.
        most_running: executions at the same time.
        pause_s: that an execution takes at least.
    """

    misuse: list[str] = field(default_factory=list)
    deserialized: list[tuple[bytes, bool]] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    compiled: list[int] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    pause_s: float = 0.0

    def clear(self) -> None:
        self.__dict__.update(vars(Records()))


records = Records()
streams: dict[int, deque[Callable[[], None]]] = {}  # work that waits, by the handle of its stream
counting = threading.Lock()
_capture = threading.local()


@contextmanager
def capturing() -> Iterator[list[tuple[int, Callable[[], None]]]]:
    """Executions of this thread are listed, batch size and all, and not run."""
    _capture.launches = []
    try:
        yield _capture.launches
    finally:
        del _capture.launches


def give(stream: int, size: int, work: Callable[[], None]) -> None:
    """Work for a batch size goes to a stream, or into this thread's capture."""
    launches = getattr(_capture, "launches", None)
    streams[stream].append(work) if launches is None else launches.append((size, work))


class Alone:
    """Tells what is done from two threads at once."""

    def __init__(self, what: str) -> None:
        self._what, self._lock = what, threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            records.misuse.append(f"{self._what} in two threads at once")
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
