"""How a checkpoint is read, where its file leaves a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """A user's choices for reading a checkpoint.

    Args:
        weights: which of several sets of weights, by its name in the file (`state_dict_ema`); None for the network's
            own, where that is clear.
        image_size: height and width of the network's input in pixels; None for what the file says. Where it says one,
            they must agree.
    """

    weights: str | None = None
    image_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without values that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Reading:
        """Read what `to_dict` gave; None gives the default.

        Raises:
            ValueError: a value of another type.
        """
        read = cls(**(values or {}))
        if not isinstance(read.weights, str | None) or not isinstance(read.image_size, int | None):
            raise ValueError(f"the reading of the checkpoint is {values!r}")
        return read


PLAIN = Reading()
