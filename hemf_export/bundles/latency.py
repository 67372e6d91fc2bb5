"""Measure the latency of a bundle's model on this machine, against the bundle's benchmark.

A latency alone is no verdict: on a busy host a sound file takes several times as long. So by default a model is too
slow only if both of these hold in each of several tries:

- its latency is more than twice that in the benchmark, and
- its latency relative to its reference, another model of the bundle run alternately on the same processor, is more than
  twice the ratio in the benchmark. Other load slows both alike; a model with wrong kernels falls behind alone.

This needs a machine of the benchmark's kind, and a reference that the benchmark timed. Otherwise latency is reported
without a verdict. An explicit bound applies to the latency itself, to the best of the tries: then the user must keep
the machine idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemf_export.bench.conditions import cpu_model
from hemf_export.files.errors import UsageError
from hemf_export.files.processors import usable_cores

DEFAULT_BOUND = 100.0  # percent: other processes' caches cost some, a wrong kernel several times as much
_LARGEST_BATCH = 1024
_WARMUP, _LEAST, _MOST, _SECONDS, _TRIES = 2, 5, 50, 2.0, 5
_REFERENCES = {"engine": ("engine", "ort-cuda"), "ort-cpu": ("ort-cpu",)}  # runners on the same processor

Work = Callable[[], object]  # runs one batch once
_clock = time.perf_counter


@dataclass(frozen=True)
class Reference:
    """Another model of the bundle, timed in its benchmark on the same processor at the same batch size.

    Args:
        runner: its name in the benchmark.
        sha256: SHA-256 of its file.
        p50_ms: median latency in the benchmark.
    """

    runner: str
    sha256: str
    p50_ms: float

    @property
    def kind(self) -> str:
        """Kind of its runner: "ort-cpu", "ort-cuda" or "engine"."""
        return self.runner.partition(",")[0]


@dataclass(frozen=True)
class Known:
    """Figures of a model in the bundle's benchmark.

    Args:
        runner: runner that was timed.
        batch: images per call.
        p50_ms: median latency.
        threads: threads of a runner on the CPU.
        machine: processor that the benchmark ran on.
        here: processor of this machine.
        reference: model to time alternately with it; None where the benchmark has none.
    """

    runner: str
    batch: int
    p50_ms: float
    threads: int
    machine: str
    here: str
    reference: Reference | None = None

    @property
    def same_kind(self) -> bool:
        """Whether both machines have the same processor, so that latencies are comparable."""
        return self.machine == self.here


@dataclass(frozen=True)
class Latency:
    """Latency of a model on this machine, with the verdict.

    Args:
        known: figures of the benchmark.
        p50_ms: median latency here.
        rounds: number of rounds measured.
        bound: allowed slow-down in percent; None for no verdict.
        ratio_growth: growth of the ratio to the reference against the benchmark, in percent; None if no reference
            was timed.
    """

    known: Known
    p50_ms: float
    rounds: int
    bound: float | None = None
    ratio_growth: float | None = None

    @property
    def slowdown(self) -> float:
        """Slow-down against the benchmark in percent; negative if it is faster here."""
        return 100 * (self.p50_ms / self.known.p50_ms - 1)

    @property
    def excess(self) -> float:
        """Figure that the bound applies to, in percent: the smaller of slow-down and growth of the ratio."""
        return self.slowdown if self.ratio_growth is None else min(self.slowdown, self.ratio_growth)

    @property
    def passed(self) -> bool:
        """Whether the bound, if any, holds."""
        return self.bound is None or self.excess <= self.bound

    @property
    def failure(self) -> str:
        """Description of how the bound is missed."""
        beside = ""
        if self.ratio_growth is not None and self.known.reference is not None:
            beside = f", and {self.ratio_growth:.0f} % slower in proportion to {self.known.reference.runner}"
        return (
            f"{self.p50_ms:.3g} ms at batch {self.known.batch}, where the bundle has {self.known.p50_ms:.3g} ms: "
            f"{self.slowdown:.0f} % slower{beside}, bound {self.bound:g} % (`max_slowdown`)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        reference = self.known.reference
        return {
            **vars(self.known),
            "reference": None if self.ratio_growth is None or reference is None else reference.runner,
            "p50_here_ms": self.p50_ms,
            "rounds_here": self.rounds,
            "same_kind": self.known.same_kind,
            "slowdown_percent": self.slowdown,
            "ratio_growth_percent": self.ratio_growth,
            "max_slowdown_percent": self.bound,
            "passed": self.passed,
        }


def known(
    bench: Mapping[str, Any] | None, sha256: str, *, engine: bool, gpu: str | None, others: Collection[str] = ()
) -> Known | None:
    """Look up a file at its smallest batch size; None where the benchmark hasn't timed it.

    Args:
        bench: JSON of a benchmark.
        sha256: SHA-256 of the file.
        engine: whether the file is an engine.
        gpu: name of this machine's GPU; None without one.
        others: hashes of the bundle's other models, any of which may be its reference.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: `bench` isn't a benchmark.
    """
    if bench is None:
        return None
    kind = "engine" if engine else "ort-cpu"
    # Timings of batches that stay on the GPU aren't comparable with a call from the host.
    timings = [one for one in bench["timings"] if one.get("transfers") is not False]
    own = [one for one in timings if one["sha256"] == sha256 and _kind(one) == kind]
    if not own:
        return None
    first = min(own, key=lambda timing: int(timing["batch"]))
    cpu, there = bench["conditions"]["cpu"], bench["conditions"]["gpu"]
    threads = int(cpu["threads"])
    machine = str((there or {}).get("name")) if engine else f"{cpu['model']}, {threads} threads"
    here = str(gpu) if engine else f"{cpu_model()}, {min(threads, usable_cores())} threads"
    figure = Known(
        str(first["name"]), int(first["batch"]), _p50(first), threads, machine, here,
        _reference(timings, _REFERENCES[kind], int(first["batch"]), others),
    )  # fmt: skip
    if min(figure.batch, figure.threads) <= 0 or figure.batch > _LARGEST_BATCH:
        raise ValueError(f"{figure.runner} was timed at batch {figure.batch} with {figure.threads} threads")
    return figure


def measure(work: Work, figure: Known, max_slowdown: float | None = None, reference: Work | None = None) -> Latency:
    """Time a model alternately with its reference; repeat, up to a limit, while it is too slow.

    Args:
        work: runs the model on a batch of the benchmark's size.
        figure: figures of the benchmark.
        max_slowdown: allowed slow-down of the latency itself, in percent; None for the default rule of this module.
        reference: runs the reference on the same images; None if it can't run here.
    """
    in_turn = reference if max_slowdown is None and figure.same_kind and figure.reference is not None else None
    bound = DEFAULT_BOUND if in_turn is not None else max_slowdown
    for _ in range(_WARMUP):
        work()
        if in_turn is not None:
            in_turn()
    tries = [_timed(work, in_turn, figure, bound)]
    while not tries[-1].passed and len(tries) < _TRIES:
        tries.append(_timed(work, in_turn, figure, bound))
    return min(tries, key=lambda one: one.excess)


def require_bound(max_slowdown: float | None) -> None:
    """Refuse an invalid bound.

    Raises:
        UsageError: below 0, or not finite.
    """
    if max_slowdown is not None and not 0 <= max_slowdown < float("inf"):
        raise UsageError(f"`max_slowdown` is a share in percent, not {max_slowdown:g}.")


def _timed(work: Work, in_turn: Work | None, figure: Known, bound: float | None) -> Latency:
    own: list[float] = []
    others: list[float] = []
    while len(own) < _LEAST or (len(own) < _MOST and sum(own) + sum(others) < 1000 * _SECONDS):
        own.append(_milliseconds(work))
        if in_turn is not None:
            others.append(_milliseconds(in_turn))
    growth = None
    if in_turn is not None and figure.reference is not None:
        ratio = float(
            np.median(np.asarray(own) / np.asarray(others))
        )  # by round: consecutive measurements share their noise
        growth = 100 * (ratio / (figure.p50_ms / figure.reference.p50_ms) - 1)
    return Latency(figure, float(np.median(own)), len(own), bound, growth)


def _milliseconds(work: Work) -> float:
    started = _clock()
    work()
    return max(1000 * (_clock() - started), 1e-6)  # a coarse clock may not have advanced


def _reference(
    timings: Sequence[Mapping[str, Any]], kinds: Sequence[str], batch: int, hashes: Collection[str]
) -> Reference | None:
    """Return the first runner of these kinds in the benchmark's order, where float32 precedes its conversions."""
    for one in timings:
        if one["sha256"] in hashes and int(one["batch"]) == batch and _kind(one) in kinds:
            return Reference(str(one["name"]), str(one["sha256"]), _p50(one))
    return None


def _kind(timing: Mapping[str, Any]) -> str:
    return str(timing["name"]).partition(",")[0]


def _p50(timing: Mapping[str, Any]) -> float:
    value = float(timing["latency_ms"]["p50"])
    if not 0 < value < float("inf"):
        raise ValueError(f"{timing['name']} took {value} ms")
    return value
