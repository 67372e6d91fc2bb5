"""A horizontal axis whose places are percentages of its width, so that what is drawn on it scales with the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_TICKS = 4  # about so many


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Args:
        low: value at its left end.
        high: value at its right end.
        step: distance of its ticks.
    """

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float], *, least: float = -math.inf, most: float = math.inf) -> Axis:
        """Choose an axis that shows all values, with some room around them.

        Args:
            values: at least one.
            least: that a value can be, such as 0 for a share.
            most: that a value can be.
        """
        listed = list(values)
        span = max(listed) - min(listed) or abs(listed[0]) or 1.0
        low, high = max(least, min(listed) - 0.08 * span), min(most, max(listed) + 0.08 * span)
        rough = (high - low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        return cls(low, high, power * next(step for step in (1, 2, 5, 10) if step * power >= rough))

    def at(self, value: float) -> float:
        """Return where a value lies, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values between both ends."""
        first = math.ceil(self.low / self.step - 1e-9)
        return [self.step * number for number in range(first, math.floor(self.high / self.step + 1e-9) + 1)]
