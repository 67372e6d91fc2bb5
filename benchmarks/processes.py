"""Measured things run in a process of their own: none finds warm what another left, or holds its memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_LEAST_PAUSE_S = 0.1  # between two looks at the memory
_PAUSE_FACTOR = 20  # a look holds up the process that is looked at: it may take a twentieth of the time


def in_process(task: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What `task` returns in a fresh process, and the most memory in bytes that its process tree was seen to hold."""
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
        found = receiving.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{task.__name__} failed (exit code {process.exitcode}).") from None
    process.join()
    return found, peak


def _answer(sending: Connection, task: Callable[..., Any], *arguments: Any) -> None:
    sending.send(task(*arguments))


def _tree_bytes(pid: int | None) -> int:
    """The proportional set sizes of a process and its descendants; 0 where the system doesn't tell them."""
    process = Path("/proc", str(pid))
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        children = [child for task in process.glob("task/*/children") for child in task.read_text().split()]
    except OSError:  # ended in between, or not Linux
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(_tree_bytes(int(child)) for child in children)
