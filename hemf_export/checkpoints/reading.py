"""How a checkpoint is read, where its file leaves a choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reading:
    """A user's choices for reading a checkpoint.

    Args:
        weights: which of several sets of weights, by its name in the file (`state_dict_ema`); None for the network's
            own, where that is clear.
        image_size: height and width of the network's input in pixels; None for what the file says. Where it says one,
            they must agree.
        factory: the factory `package.module:function` of a network of the user's own, as the user gives it: without it,
            code that a file names isn't run. It is neither saved nor read, and takes no part in comparisons.
    """

    weights: str | None = None
    image_size: int | None = None
    factory: str | None = field(default=None, compare=False)

    @property
    def given(self) -> bool:
        """Whether the user chose anything about how a checkpoint is read."""
        return self != PLAIN or self.factory is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without values that are None."""
        return {name: value for name in _RECORDED if (value := getattr(self, name)) is not None}

    def or_recorded(self, recorded: Reading) -> Reading:
        """These choices, or where there are none those that a file records; the factory is the user's in any case."""
        return self if self != PLAIN else dataclasses.replace(recorded, factory=self.factory)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Reading:
        """Read what `to_dict` gave; None gives the default.

        Raises:
            ValueError: a value of another type.
        """
        unknown = sorted(set(values or {}) - set(_RECORDED))
        if unknown:
            raise ValueError(f"the reading of the checkpoint has {unknown[0]!r}")
        read = cls(**(values or {}))
        if not isinstance(read.weights, str | None) or not isinstance(read.image_size, int | None):
            raise ValueError(f"the reading of the checkpoint is {values!r}")
        return read


_RECORDED = ("weights", "image_size")
PLAIN = Reading()
