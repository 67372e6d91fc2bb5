"""How long a model of a bundle takes here, beside what the bundle's benchmark measured where it was made.

A latency alone is no verdict: on a host that is busy with something else a sound file takes several times as long. So
by default a model is too slow only where both of these hold, in each of several tries:

- it takes over twice as long as in the benchmark, and
- run in turn with another model of the bundle on the same processor, its reference, it takes over twice as long in
  proportion as the benchmark had it. Other work slows both alike; a model whose kernels are wrong falls behind alone.

That is known only on a machine of the benchmark's kind, and where the benchmark timed a reference. Elsewhere latency is
reported without a verdict. Who asks for a bound gets one on the latency itself, by the best of the tries: it's then for
them to keep the machine free.
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

DEFAULT_BOUND = 100.0  # percent: another process's caches cost some, a missing kernel several times as much
_LARGEST_BATCH = 1024
_WARMUP, _LEAST, _MOST, _SECONDS, _TRIES = 2, 5, 50, 2.0, 5
_REFERENCES = {"engine": ("engine", "ort-cuda"), "ort-cpu": ("ort-cpu",)}  # runners on the same processor

Work = Callable[[], object]  # one batch, once
_clock = time.perf_counter


@dataclass(frozen=True)
class Reference:
    """Another model of the bundle, timed by its benchmark on the same processor at the same batch size.

    Args:
        runner: as the benchmark names it.
        sha256: of its file.
        p50_ms: the median there.
    """

    runner: str
    sha256: str
    p50_ms: float

    @property
    def kind(self) -> str:
        """What ran it: "ort-cpu", "ort-cuda" or "engine"."""
        return self.runner.partition(",")[0]


@dataclass(frozen=True)
class Known:
    """What the bundle's benchmark says of a model.

    Args:
        runner: that was timed.
        batch: images a call.
        p50_ms: the median there.
        threads: that it had on a CPU.
        machine: that it was measured on.
        here: what this machine is.
        reference: what to time it beside; None where the benchmark has nothing.
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
        """Whether both machines are of one kind, so that the figures can be compared."""
        return self.machine == self.here


@dataclass(frozen=True)
class Latency:
    """A model's latency here, and whether it's too slow.

    Args:
        known: of the benchmark.
        p50_ms: the median here.
        rounds: that it was taken from.
        bound: in percent, that it was held to; None for no verdict.
        ratio_growth: in percent, how much larger the ratio to the reference is than in the benchmark; None where no
            reference was timed.
    """

    known: Known
    p50_ms: float
    rounds: int
    bound: float | None = None
    ratio_growth: float | None = None

    @property
    def slowdown(self) -> float:
        """In percent of the benchmark's figure; negative where it is quicker here."""
        return 100 * (self.p50_ms / self.known.p50_ms - 1)

    @property
    def excess(self) -> float:
        """What is held to the bound, in percent: the smaller of slow-down and growth of the ratio."""
        return self.slowdown if self.ratio_growth is None else min(self.slowdown, self.ratio_growth)

    @property
    def passed(self) -> bool:
        """Whether the bound holds, if there is one."""
        return self.bound is None or self.excess <= self.bound

    @property
    def failure(self) -> str:
        """How the bound is missed, in words."""
        beside = ""
        if self.ratio_growth is not None and self.known.reference is not None:
            beside = f", and {self.ratio_growth:.0f} % slower in proportion to {self.known.reference.runner}"
        return (
            f"{self.p50_ms:.3g} ms at batch {self.known.batch}, where the bundle has {self.known.p50_ms:.3g} ms: "
            f"{self.slowdown:.0f} % slower{beside}, bound {self.bound:g} % (`max_slowdown`)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
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
        sha256: of the file.
        engine: whether it is one.
        gpu: this machine's.
        others: hashes of the bundle's other models, any of which may be its reference.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no benchmark.
    """
    if bench is None:
        return None
    kind = "engine" if engine else "ort-cpu"
    # Where images stay on the GPU, the time is of something else than a call from here.
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
    """Time a model, in turn with its reference; once more, up to a limit, while it is too slow.

    Args:
        work: the model on a batch of the figure's size.
        figure: of the benchmark.
        max_slowdown: in percent, of the latency itself; None for the rule of this module.
        reference: the figure's, on the same images; None where it can't be run here.
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
    """Refuse a bound that is none.

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
        ratio = float(np.median(np.asarray(own) / np.asarray(others)))  # round by round: neighbours share their noise
        growth = 100 * (ratio / (figure.p50_ms / figure.reference.p50_ms) - 1)
    return Latency(figure, float(np.median(own)), len(own), bound, growth)


def _milliseconds(work: Work) -> float:
    started = _clock()
    work()
    return max(1000 * (_clock() - started), 1e-6)  # a coarse clock may not have moved


def _reference(
    timings: Sequence[Mapping[str, Any]], kinds: Sequence[str], batch: int, hashes: Collection[str]
) -> Reference | None:
    """The first runner of such a kind, in the benchmark's order, which has float32 before its conversions."""
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
