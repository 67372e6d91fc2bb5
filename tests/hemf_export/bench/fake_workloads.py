"""Work whose duration and logits are known, on a clock of its own: nothing here depends on how busy the machine is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hemf_export.timing.measurement import Contender

PIXELS = np.zeros((1, 4, 4, 3), np.uint8)


class Clock:
    """Stands in for the `time` module: its seconds pass in `FakeWorkload` alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeWorkload:
    """Takes `seconds()` a run and gives logits of `value()`."""

    def __init__(self, clock: Clock, seconds: Callable[[], float], value: Callable[[], float]) -> None:
        self.clock, self.seconds, self.value = clock, seconds, value
        self.calls: list[float] = []

    def run(self) -> None:
        self.calls.append(self.clock.now)
        self.clock.now += self.seconds()

    def logits(self) -> np.ndarray:
        return np.full((1, 2), self.value(), np.float32)


def contender(work: object, name: str = "work") -> Contender:
    """Its logits may differ by 0.1."""
    return Contender(name, lambda pixels: work, lambda largest: 0.1)


def drifting(seed: int, *, noise: float = 0.02, drift: float = 0.3) -> Callable[[Clock], Callable[[], float]]:
    """Durations around 10 ms on a machine that grows slower and quicker for all at once; of one run of a benchmark."""

    def of(clock: Clock) -> Callable[[], float]:
        generator = np.random.default_rng(seed)

        def seconds() -> float:
            slow = 1 + drift * np.sin(clock.now / 3 + seed)
            return float(0.01 * slow * np.exp(noise * generator.standard_t(3)))

        return seconds

    return of
