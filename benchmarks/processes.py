"""Run measurements in their own processes, so that they share neither warm caches nor memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_LEAST_PAUSE_S = 0.1  # between two samples of the memory
_PAUSE_FACTOR = 20  # sampling slows the process down: it may take a twentieth of the time


def in_process(task: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Run `task` in a new process; return its result, and the peak memory of its process tree in bytes, as sampled."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, task, *arguments), daemon=True)
    process.start()
    sending.close()
    peak, pause = 0, _LEAST_PAUSE_S
    while not receiving.poll(pause):
        start = time.perf_counter()
        peak = max(peak, _tree_bytes(process.pid))
        pause = max(_LEAST_PAUSE_S, _PAUSE_FACTOR * (time.perf_counter() - start))
    try:
        result = receiving.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{task.__name__} failed (exit code {process.exitcode}).") from None
    process.join()
    return result, peak


def _answer(sending: Connection, task: Callable[..., Any], *arguments: Any) -> None:
    sending.send(task(*arguments))


def _tree_bytes(pid: int | None) -> int:
    """Return the proportional set size of a process and its descendants in bytes; 0 where not available."""
    process = Path("/proc", str(pid))
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        children = [child for task in process.glob("task/*/children") for child in task.read_text().split()]
    except OSError:  # the process has ended, or not Linux
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(_tree_bytes(int(child)) for child in children)
