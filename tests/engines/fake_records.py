"""What the fake TensorRT notes while it runs, and the streams that its work waits on.

What a caller does against the interface's rules, and the fake lets pass as TensorRT would, stands in `records.misuse`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
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
        run_on_fallback_kernels: batch sizes whose own kernels TensorRT-RTX is still to compile in the background.
        pause_s: that the making of a context takes at least.
    """

    misuse: list[str] = field(default_factory=list)
    deserialized: list[tuple[bytes, bool]] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    compiled: list[int] = field(default_factory=list)
    run_on_fallback_kernels: list[int] = field(default_factory=list)
    pause_s: float = 0.0

    def clear(self) -> None:
        self.__dict__.update(vars(Records()))


records = Records()
streams: dict[int, Any] = {}  # by their handles: where `launch` puts an execution, or a queue of functions


def give(
    stream: int, size: int, work: Callable[[], None], reads: Sequence[Any] = (), writes: Sequence[Any] = ()
) -> None:
    """Enqueue an execution of a batch size: its function, and the memory that this reads and writes."""
    target = streams[stream]
    if isinstance(target, deque):
        target.append(work)
    else:
        target.launch(size, work, reads, writes)


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
