"""Types of options that are numbers: a range each, and no NaN, infinity or number that no machine could mean."""

from __future__ import annotations

import math
from typing import Any

import click

_LARGEST_COUNT = 2**31 - 1  # what the fields of files and of other programs hold
_LARGEST_SEED = 2**63 - 1


class Count(click.IntRange):
    """A whole number of things."""

    name = "integer"

    def __init__(self, least: int = 1, most: int | None = None, *, largest: int = _LARGEST_COUNT) -> None:
        super().__init__(least, most)
        self.largest = largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, which a range without an upper end would let grow without one."""
        number = super().convert(value, param, ctx)
        if number > self.largest:
            self.fail(f"{value} is more than {self.largest}.", param, ctx)
        return number


class Seed(Count):
    """What random numbers begin with."""

    def __init__(self) -> None:
        super().__init__(0, largest=_LARGEST_SEED)


class Number(click.FloatRange):
    """A finite number."""

    name = "float"

    def __init__(self, least: float = 0.0, most: float | None = None, *, above: bool = False) -> None:
        super().__init__(least, most, min_open=above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; the range alone would let NaN pass."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POINTS = Number(0.0, 100.0)
SHARE = Number(0.0, 1.0)
SECONDS = Number(above=True, most=1e6)


def whole_numbers(option: str, text: str, *, most: int = _LARGEST_COUNT) -> tuple[int, ...]:
    """Positive numbers in a text, `N,N`.

    Raises:
        UsageError: anything else.
    """
    from hemf.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 12 and 0 < int(part) <= most for part in parts):
        raise UsageError(f"{option} takes positive numbers, N or N,N, not {text!r}.")
    return tuple(map(int, parts))
