"""Time runners side by side: warmed up, interleaved, and only those whose logits match the reference's.

Every round runs each of them once, in a new random order, so that drift of the machine affects all alike and none
always follows the same other. Ratios are computed round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.files.errors import CheckFailedError, HemfError, MissingCapabilityError
from hemf_export.files.progress import SILENT, Progress, Task
from hemf_export.metrics.comparison import compare
from hemf_export.timing import failures, intervals
from hemf_export.timing.intervals import Interval
from hemf_export.timing.workloads import Workload

PERCENTILES = (50, 90, 95, 99)
WARMUP_S = 0.3
WARMUP_RUNS = 2
MIN_ROUNDS = 10
ENOUGH_ROUNDS = 100  # so that one is beyond p99
# A batch size is done when half the interval of every runner's median latency is at most this share of it.
STABLE = 0.01
_NEXT_LOOK = 1.3  # factor of rounds after which intervals are computed again


@dataclass(frozen=True)
class Contender:
    """A runner to be timed.

    Args:
        name: unique name for reports.
        prepare: pixels of a batch (batch, H, W, 3) uint8 → a workload that is ready to run.
        tolerance: largest reference logit → allowed difference from the reference's logits.
        precision: precision of most of its products, for the roofline: "fp32", "fp16" or "int8"; None for another.
        on_gpu: whether it runs on a GPU.
        transfers: whether the time includes the transfer of input and logits; None on a CPU.
        close: release the model and its memory; nothing is prepared any more then.
    """

    name: str
    prepare: Callable[[NDArray[np.uint8]], Workload]
    tolerance: Callable[[float], float]
    precision: str | None = None
    on_gpu: bool = False
    transfers: bool | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class NotRun:
    """A contender that was not timed, and why.

    Args:
        name: name of the contender.
        reason: one sentence.
        batch: batch size; None for all.
        failed: its logits are wrong or not finite, rather than something missing on this machine.
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
        contender: the contender.
        batch: batch size.
        latencies_ms: latency of each round, in order.
        ratio: ratio to the first contender, round by round.
        bound: allowed difference of its logits from the first contender's on the timed batch. This check only shows
            that the contender runs the same model; `verify` measures the difference on real images.
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
        """Percentile of latency in ms; None with too few rounds for one beyond it."""
        if len(self.latencies_ms) * (100 - share) < 100:
            return None
        return float(np.percentile(self.latencies_ms, share))

    @property
    def median_ms(self) -> float:
        """Median latency, p50."""
        return float(np.median(self.latencies_ms))

    @property
    def speed_up(self) -> Interval:
        """How many times as fast as the first contender it is: one over `ratio`."""
        return self.ratio.inverse

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency, with one call at a time."""
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
            "speed_up": self.speed_up.to_dict(),
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

    Logits are compared before and after: contenders with other logits aren't timed, or their timings are discarded.
    So are those of contenders that fail: full memory, or an error of their library.

    Args:
        contenders: the first is the reference.
        pixels: (batch, H, W, 3) uint8.
        seconds: time limit for all of them together, without compilation and warm-up; `MIN_ROUNDS` rounds are always
            run, and `ENOUGH_ROUNDS` before anything counts as stable.
        progress: receives the preparation and the elapsed time.
        between_rounds: called after each round.

    Returns:
        Timings of contenders with matching logits, in order, and the others with the reason.

    Raises:
        CheckFailedError: the reference's logits are not finite.
        HemfError: the reference can't be run; a MissingCapabilityError if this machine lacks something.
    """
    not_run: list[NotRun] = []
    ready: list[_Ready] = []
    reference: NDArray[np.float32] | None = None

    def leave_out(contender: Contender, error: HemfError) -> None:
        if reference is None or contender is contenders[0]:
            raise _of_reference(contender, len(pixels), error) from error
        failed = isinstance(error, CheckFailedError)
        not_run.append(NotRun(contender.name, error.message, len(pixels), failed))

    for contender in contenders:
        try:
            with progress.task(f"Preparing {contender.name}"), failures.guarded(on_gpu=contender.on_gpu):
                work = contender.prepare(pixels)
                work.run()
                if reference is None:
                    reference = _finite(contender, work)
                _require_same(contender, work, reference)
                _warm(work)
            ready.append(_Ready(contender, work, []))
            continue
        except HemfError as error:
            leave_out(contender, error)
        failures.release_memory()
    assert reference is not None, "there is a first contender"
    with progress.task("Timing", seconds, "s") as task:
        timed = _rounds(ready, seconds, task, between_rounds, leave_out)
    first = np.asarray(timed[0].latencies)
    timings = []
    for one in timed:
        try:
            with failures.guarded(on_gpu=one.contender.on_gpu):
                bound = _require_same(one.contender, one.work, reference)
        except HemfError as error:
            leave_out(one.contender, _later("After the timing", error))
            continue
        array = np.asarray(one.latencies)
        ratio = Interval(1.0, 1.0, 1.0) if one is timed[0] else intervals.of_ratio(array / first)
        timings.append(Timing(one.contender, len(pixels), tuple(one.latencies), ratio, bound, stable=_stable(array)))
    return timings, not_run


@dataclass(frozen=True)
class _Ready:
    """A contender with its workload, and its latencies in ms so far."""

    contender: Contender
    work: Workload
    latencies: list[float]


def _rounds(
    ready: Sequence[_Ready],
    seconds: float,
    task: Task,
    between_rounds: Callable[[], None],
    leave_out: Callable[[Contender, HemfError], None],
) -> list[_Ready]:
    """Time rounds until the medians are stable or time is up; return those that never failed."""
    running, generator = list(ready), np.random.default_rng(0)
    reference = ready[0]
    look, started = ENOUGH_ROUNDS, time.perf_counter()
    while True:
        for one in [running[index] for index in generator.permutation(len(running))]:
            try:
                with failures.guarded(on_gpu=one.contender.on_gpu):
                    run = one.work.run
                    before = time.perf_counter()
                    run()
                    one.latencies.append(1000 * (time.perf_counter() - before))
            except HemfError as error:
                leave_out(one.contender, _later("While it was timed", error))
                running = [other for other in running if other is not one]
        rounds, gone = len(reference.latencies), time.perf_counter() - started
        task.update(min(gone, seconds), text=f"Timing, round {rounds}")
        between_rounds()
        if gone >= seconds and rounds >= MIN_ROUNDS:
            return running
        if rounds >= look:
            if all(_stable(np.asarray(one.latencies)) for one in running):
                return running
            look = round(_NEXT_LOOK * rounds)


def _later(when: str, error: HemfError) -> HemfError:
    return type(error)(f"{when}: {error.message}", error.hint)


def _of_reference(contender: Contender, batch: int, error: HemfError) -> HemfError:
    """Name the reference, without which nothing can be compared, in its error."""
    if isinstance(error, CheckFailedError):
        return error
    kind = MissingCapabilityError if isinstance(error, MissingCapabilityError) else HemfError
    return kind(
        f"{contender.name}, which the others are compared with, can't be run on a batch of {batch}: {error.message}",
        error.hint,
    )


def _stable(latencies: NDArray[np.float64]) -> bool:
    return intervals.of_median(latencies).half_width <= STABLE


def _warm(work: Workload) -> None:
    started, runs = time.perf_counter(), 0
    while runs < WARMUP_RUNS or time.perf_counter() - started < WARMUP_S:
        before = time.perf_counter()
        work.run()
        runs += 1
        if time.perf_counter() - before > 2 * WARMUP_S:
            return  # a single run takes longer than the whole warm-up


def _finite(contender: Contender, work: Workload) -> NDArray[np.float32]:
    logits = work.logits()
    if not np.isfinite(logits).all():
        raise CheckFailedError(
            f"{contender.name}, which the others are compared with, computes logits that are not finite.",
            "Nothing was timed. Look at the file: `inspect()`.",
        )
    return logits


def _require_same(contender: Contender, work: Workload, reference: NDArray[np.float32]) -> float:
    """Compare a contender's logits with the reference's; returns the bound, or raises CheckFailedError."""
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
