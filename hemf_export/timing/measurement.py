"""Timing runners side by side: warmed up, interleaved, and only those whose logits are the reference's.

Every round runs each of them once, in an order drawn anew, so that a machine that drifts drifts for all and none always
follows the same other. Ratios are taken round by round. Knows workloads, not what is behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.files.errors import CheckFailedError, HemfError
from hemf_export.files.progress import SILENT, Progress, Task
from hemf_export.metrics.comparison import compare
from hemf_export.timing import intervals
from hemf_export.timing.intervals import Interval
from hemf_export.timing.workloads import Workload

PERCENTILES = (50, 90, 95, 99)
WARMUP_S = 0.3
WARMUP_RUNS = 2
MIN_ROUNDS = 10
ENOUGH_ROUNDS = 100  # for one to lie beyond p99
# A batch size is done when every runner's median latency is known so well: half of its interval, as a share of it.
STABLE = 0.01
_NEXT_LOOK = 1.3  # intervals are looked at again after so many times the rounds


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Args:
        name: for reports; unique.
        prepare: a batch of pixels (batch, H, W, 3) uint8 → the work on it, ready to be run.
        tolerance: how far its logits may be from the first contender's, given the largest of those.
        precision: of most of its products, as a roofline has it: "fp32", "fp16" or "int8"; None for another.
        on_gpu: whether it computes there.
        transfers: whether input and logits cross to the GPU and back within the time; None on a CPU.
    """

    name: str
    prepare: Callable[[NDArray[np.uint8]], Workload]
    tolerance: Callable[[float], float]
    precision: str | None = None
    on_gpu: bool = False
    transfers: bool | None = None


@dataclass(frozen=True)
class NotRun:
    """What was not timed, and why.

    Args:
        name: of the contender.
        reason: one sentence.
        batch: images a call; None for all sizes.
        failed: its logits are wrong, or not finite: a check that failed, not something that this machine lacks.
    """

    name: str
    reason: str
    batch: int | None = None
    failed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Timing:
    """Latencies of one contender at one batch size.

    Args:
        contender: whose.
        batch: images a call.
        latencies_ms: one a round, in order.
        ratio: to the first contender, round by round.
        bound: that its logits on the timed batch were held to, from the first contender's. How far a file is from its
            reference is for `verify` to say, on images and as a GPU computes it: a timed batch tells only that the
            contender runs the same model.
        stable: whether the median was known to `STABLE` when time was up.
    """

    contender: Contender
    batch: int
    latencies_ms: tuple[float, ...]
    ratio: Interval
    bound: float
    stable: bool

    @property
    def name(self) -> str:
        """Name of the contender."""
        return self.contender.name

    def percentile(self, share: int) -> float | None:
        """Latency in ms; None where there are too few rounds for one to lie beyond it."""
        if len(self.latencies_ms) * (100 - share) < 100:
            return None
        return float(np.percentile(self.latencies_ms, share))

    @property
    def median_ms(self) -> float:
        """Median latency, p50."""
        return float(np.median(self.latencies_ms))

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency, one call after the other."""
        return 1000 * self.batch / self.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "name": self.name,
            "batch": self.batch,
            "precision": self.contender.precision,
            "on_gpu": self.contender.on_gpu,
            "transfers": self.contender.transfers,
            "rounds": len(self.latencies_ms),
            "stable": self.stable,
            "latency_ms": {f"p{share}": self.percentile(share) for share in PERCENTILES},
            "latencies_ms": [round(latency, 4) for latency in self.latencies_ms],
            "images_per_second": self.images_per_second,
            "ratio": self.ratio.to_dict(),
            "check_on_timed_batch": {"passed": True, "bound": self.bound},
        }


def measure(
    contenders: Sequence[Contender],
    pixels: NDArray[np.uint8],
    *,
    seconds: float,
    progress: Progress = SILENT,
    between_rounds: Callable[[], None] = lambda: None,
) -> tuple[list[Timing], list[NotRun]]:
    """Time every contender on the same batch, until all medians are stable or the time is up.

    Logits are compared before and after: what computes others is not timed, or its times are thrown away.

    Args:
        contenders: the first is what the others are compared with.
        pixels: (batch, H, W, 3) uint8.
        seconds: at most, for all of them together, compiling and the warm-up apart; `MIN_ROUNDS` rounds are always run,
            and `ENOUGH_ROUNDS` before anything is called stable.
        progress: receives what is prepared, and how much of the time is gone.
        between_rounds: called after each round.

    Returns:
        Timings of those that computed the right logits, in order, and the others with the reason.

    Raises:
        CheckFailedError: the first one's logits are not finite: there is nothing to compare with.
        HemfError: the first one can't be run.
    """
    not_run: list[NotRun] = []
    ready: list[tuple[Contender, Workload]] = []
    reference: NDArray[np.float32] | None = None
    for contender in contenders:
        try:
            with progress.task(f"Preparing {contender.name}"):
                work = contender.prepare(pixels)
                work.run()
                if reference is None:
                    reference = _finite(contender, work)
                _require_same(contender, work, reference)
                _warm(work)
            ready.append((contender, work))
        except HemfError as error:
            if reference is None:
                raise
            failed = isinstance(error, CheckFailedError)
            not_run.append(NotRun(contender.name, error.message, len(pixels), failed))
    assert reference is not None, "there is a first contender"
    with progress.task("Timing", seconds, "s") as task:
        latencies = _rounds([work for _, work in ready], seconds, task, between_rounds)
    first = np.asarray(latencies[0])
    timings = []
    for (contender, work), own in zip(ready, latencies, strict=True):
        try:
            bound = _require_same(contender, work, reference)
        except CheckFailedError as error:
            not_run.append(NotRun(contender.name, f"After the timing: {error.message}", len(pixels), failed=True))
            continue
        array = np.asarray(own)
        stable = _stable(array)
        ratio = Interval(1.0, 1.0, 1.0) if own is latencies[0] else intervals.of_ratio(array / first)
        timings.append(Timing(contender, len(pixels), tuple(own), ratio, bound, stable))
    return timings, not_run


def _rounds(
    works: Sequence[Workload], seconds: float, task: Task, between_rounds: Callable[[], None]
) -> list[list[float]]:
    """Time rounds until the medians are stable or time is up; latencies in ms, a list for each workload."""
    order, generator = np.arange(len(works)), np.random.default_rng(0)
    latencies: list[list[float]] = [[] for _ in works]
    look, started = ENOUGH_ROUNDS, time.perf_counter()
    while True:
        generator.shuffle(order)
        for index in map(int, order):
            run = works[index].run
            before = time.perf_counter()
            run()
            latencies[index].append(1000 * (time.perf_counter() - before))
        rounds, gone = len(latencies[0]), time.perf_counter() - started
        task.update(min(gone, seconds), text=f"Timing, round {rounds}")
        between_rounds()
        if gone >= seconds and rounds >= MIN_ROUNDS:
            return latencies
        if rounds >= look:
            if all(_stable(np.asarray(own)) for own in latencies):
                return latencies
            look = round(_NEXT_LOOK * rounds)


def _stable(latencies: NDArray[np.float64]) -> bool:
    return intervals.of_median(latencies).half_width <= STABLE


def _warm(work: Workload) -> None:
    started, runs = time.perf_counter(), 0
    while runs < WARMUP_RUNS or time.perf_counter() - started < WARMUP_S:
        before = time.perf_counter()
        work.run()
        runs += 1
        if time.perf_counter() - before > 2 * WARMUP_S:
            return  # a single run lasted longer than a warm-up has to


def _finite(contender: Contender, work: Workload) -> NDArray[np.float32]:
    logits = work.logits()
    if not np.isfinite(logits).all():
        raise CheckFailedError(
            f"{contender.name}, which the others are compared with, computes logits that are not finite.",
            "Nothing was timed. Look at the file: `inspect()`.",
        )
    return logits


def _require_same(contender: Contender, work: Workload, reference: NDArray[np.float32]) -> float:
    """Raise CheckFailedError where a contender's logits are not the reference's; the bound that they were held to."""
    logits = work.logits()
    if logits.shape != reference.shape:
        raise CheckFailedError(f"Logits of the shape {logits.shape}; the first has {reference.shape}.")
    compared = compare(logits, reference)
    if not compared.finite:
        raise CheckFailedError("Its logits are not finite.")
    difference, bound = compared.logit_difference.max, contender.tolerance(compared.largest_logit)
    if difference > bound:
        raise CheckFailedError(
            f"It computes other logits than the first: a difference of {difference:.3g}, allowed {bound:.3g}."
        )
    return bound
