"""How long a model of a bundle takes here, beside what its benchmark measured where it was made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf.errors import UsageError
from hemf.processors import usable_cores
from hemf_export.bench.conditions import cpu_model
from hemf_export.runners import Runner

SAME_KIND_SLOWDOWN = 100.0  # percent: a busy machine takes half as long again, a broken set-up several times
_LARGEST_BATCH = 1024
_WARMUP, _LEAST, _MOST, _SECONDS, _TRIES = 2, 5, 50, 2.0, 5


@dataclass(frozen=True)
class Known:
    """A figure of the bundle's benchmark.

    Args:
        runner: that was timed.
        batch: images a call.
        p50_ms: the median there.
        threads: that it had on a CPU.
        machine: that it was measured on.
        here: what this machine is.
    """

    runner: str
    batch: int
    p50_ms: float
    threads: int
    machine: str
    here: str

    @property
    def same_kind(self) -> bool:
        """Whether both are of one kind, so that the figures can be compared."""
        return self.machine == self.here


@dataclass(frozen=True)
class Latency:
    """Both figures.

    Args:
        known: of the benchmark.
        p50_ms: the median here.
        rounds: that it is of.
        max_slowdown: in percent, that it was held to; None where the machines differ and nothing was asked for.
    """

    known: Known
    p50_ms: float
    rounds: int
    max_slowdown: float | None

    @property
    def slowdown(self) -> float:
        """In percent of the benchmark's figure; negative where it is quicker here."""
        return 100 * (self.p50_ms / self.known.p50_ms - 1)

    @property
    def passed(self) -> bool:
        """Whether the bound holds, if there is one."""
        return self.max_slowdown is None or self.slowdown <= self.max_slowdown

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            **vars(self.known),
            "p50_here_ms": self.p50_ms,
            "rounds_here": self.rounds,
            "same_kind": self.known.same_kind,
            "slowdown_percent": self.slowdown,
            "max_slowdown_percent": self.max_slowdown,
            "passed": self.passed,
        }


def known(bench: Mapping[str, Any] | None, sha256: str, *, engine: bool, gpu: str | None) -> Known | None:
    """The figure of a file at its smallest batch size; None where the benchmark has none.

    Args:
        bench: JSON of `hemf-export bench`.
        sha256: of the file.
        engine: whether it is one.
        gpu: this machine's.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no benchmark.
    """
    kinds = ("engine, ",) if engine else ("ort-cpu, ",)
    timings = [] if bench is None else bench["timings"]
    own = [one for one in timings if one["sha256"] == sha256 and str(one["name"]).startswith(kinds)]
    if bench is None or not own:
        return None
    first = min(own, key=lambda timing: int(timing["batch"]))
    cpu, there = bench["conditions"]["cpu"], bench["conditions"]["gpu"]
    threads = int(cpu["threads"])
    machine = str((there or {}).get("name")) if engine else f"{cpu['model']}, {threads} threads"
    here = str(gpu) if engine else f"{cpu_model()}, {min(threads, usable_cores())} threads"
    found = Known(str(first["name"]), int(first["batch"]), float(first["latency_ms"]["p50"]), threads, machine, here)
    if min(found.batch, found.threads, found.p50_ms) <= 0 or found.batch > _LARGEST_BATCH:
        raise ValueError(f"{found.runner} at batch {found.batch} took {found.p50_ms} ms with {threads} threads")
    return found


def measure(runner: Runner, inputs: NDArray[np.generic], figure: Known, max_slowdown: float | None) -> Latency:
    """Time a runner; one that is too slow again, as other work on the machine may have been in its way.

    Args:
        runner: loaded.
        inputs: network input, of the figure's batch size.
        figure: of the benchmark.
        max_slowdown: in percent; None for the bound of machines of one kind, and none for others.
    """
    for _ in range(_WARMUP):
        runner.infer(inputs)
    bound = max_slowdown if max_slowdown is not None else SAME_KIND_SLOWDOWN if figure.same_kind else None
    found = [_timed(runner, inputs, figure, bound)]
    while not found[-1].passed and len(found) < _TRIES:
        found.append(_timed(runner, inputs, figure, bound))
    return min(found, key=lambda one: one.p50_ms)


def _timed(runner: Runner, inputs: NDArray[np.generic], figure: Known, bound: float | None) -> Latency:
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and sum(taken) < 1000 * _SECONDS):
        started = time.perf_counter()
        runner.infer(inputs)
        taken.append(1000 * (time.perf_counter() - started))
    return Latency(figure, float(np.median(taken)), len(taken), bound)


def require_bound(max_slowdown: float | None) -> None:
    """Refuse a bound that is none.

    Raises:
        UsageError: below 0, or not finite.
    """
    if max_slowdown is not None and not 0 <= max_slowdown < float("inf"):
        raise UsageError(f"--max-slowdown is a share in percent, not {max_slowdown:g}.")
