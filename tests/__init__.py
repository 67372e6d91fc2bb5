"""Tests, a folder a room.

Where several processes share them, each gets a core of its own, before any library counts its threads: two whose
threads take turns on all cores are slower. And each computes with one thread: several would turn in circles while they
wait for each other, and on busy cores training takes five times the processor time so.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
