"""Timing runners side by side: interleaved, warmed up, and only those whose outputs are the reference's.

Ratios are taken round by round, so that a machine that drifts drifts for all. Knows runners, not what is behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf.errors import CheckFailedError
from hemf_export.runners import Runner

PERCENTILES = (50, 90, 95, 99)
WARMUP_S = 0.3
MIN_ROUNDS = 10


@dataclass(frozen=True)
class Contender:
    """A runner, the input that it takes for a batch of pixels, and how far its logits may be from the first runner's.

    `tolerance` gives that for the first runner's largest logit.
    """

    runner: Runner
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.generic]]
    tolerance: Callable[[float], float]


@dataclass(frozen=True)
class Timing:
    """Latencies of one runner at one batch size.

    Args:
        name: the runner's.
        batch: images a call.
        latencies_ms: one a round, in order.
        ratio: to the first runner, the median over rounds, with the 2.5th and 97.5th percentile of its bootstrap.
        max_difference: of a logit, from the first runner's.
    """

    name: str
    batch: int
    latencies_ms: tuple[float, ...]
    ratio: tuple[float, float, float]
    max_difference: float

    def percentile(self, share: float) -> float:
        """Latency in ms."""
        return float(np.percentile(self.latencies_ms, share))

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return 1000 * self.batch / self.percentile(50)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "name": self.name,
            "batch": self.batch,
            "rounds": len(self.latencies_ms),
            "latency_ms": {f"p{share}": self.percentile(share) for share in PERCENTILES},
            "images_per_second": self.images_per_second,
            "ratio": {"median": self.ratio[0], "low": self.ratio[1], "high": self.ratio[2]},
            "max_logit_difference": self.max_difference,
        }


def measure(
    contenders: Sequence[Contender],
    pixels: NDArray[np.uint8],
    *,
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Timing]:
    """Time every contender on the same batch, in turn, round after round.

    Args:
        contenders: the first is what the others are compared with.
        pixels: (batch, H, W, 3) uint8.
        seconds: for all of them together, the warm-up apart; at least `MIN_ROUNDS` rounds are run.
        progress: told the share of the time that is gone.

    Raises:
        CheckFailedError: a contender's outputs are not the first one's: it would be fast and wrong.
    """
    inputs = [contender.prepare(pixels) for contender in contenders]
    outputs = [contender.runner.infer(batch) for contender, batch in zip(contenders, inputs, strict=True)]
    differences = [
        _difference(contender, output, outputs[0]) for contender, output in zip(contenders, outputs, strict=True)
    ]
    for contender, batch in zip(contenders, inputs, strict=True):
        started = time.perf_counter()
        while time.perf_counter() - started < WARMUP_S:
            contender.runner.infer(batch)
    latencies: list[list[float]] = [[] for _ in contenders]
    started = time.perf_counter()
    while (gone := time.perf_counter() - started) < seconds or len(latencies[0]) < MIN_ROUNDS:
        progress(min(1.0, gone / seconds))
        for contender, batch, own in zip(contenders, inputs, latencies, strict=True):
            before = time.perf_counter()
            contender.runner.infer(batch)
            own.append(1000 * (time.perf_counter() - before))
    first = np.asarray(latencies[0])
    return [
        Timing(contender.runner.name, len(pixels), tuple(own), _ratio(np.asarray(own) / first), difference)
        for contender, own, difference in zip(contenders, latencies, differences, strict=True)
    ]


def _difference(contender: Contender, output: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    difference = float(np.abs(output.astype(np.float64) - reference).max())
    allowed = contender.tolerance(float(np.abs(reference).max()))
    if not difference <= allowed:  # NaN fails too
        raise CheckFailedError(
            f"{contender.runner.name} computes other logits than the first: a difference of {difference:.3g}, "
            f"allowed {allowed:.3g}.",
            "It was not timed. Was it made from the same checkpoint?",
        )
    return difference


def _ratio(ratios: NDArray[np.float64]) -> tuple[float, float, float]:
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(ratios, (500, len(ratios))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)
