"""What a user says of a checkpoint that its file leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """How a checkpoint is to be read.

    Args:
        weights: which of several sets of weights, by its name in the file (`state_dict_ema`); None for the network's
            own, where that is clear.
        image_size: height and width of the network's input in pixels; None for what the file says. Where it says one,
            they must agree.
    """

    weights: str | None = None
    image_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without what was left open."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Reading:
        """The inverse of `to_dict`; None is an empty one.

        Raises:
            ValueError: a value of another kind.
        """
        read = cls(**(values or {}))
        if not isinstance(read.weights, str | None) or not isinstance(read.image_size, int | None):
            raise ValueError(f"the reading of the checkpoint is {values!r}")
        return read


PLAIN = Reading()
