"""The training recipe: by default Table 5 of the paper, with what its code adds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from hemf.errors import BadInputError, UsageError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; saved in every checkpoint.

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the peak, reached at the end of the warm-up.
        final_learning_rate: where the cosine ends.
        warmup_epochs: linear warm-up from `warmup_start` of the rate; 0 for none.
        warmup_start: the share of the rate that the warm-up starts from.
        weight_decay: of AdamW; not on biases and other 1-dimensional parameters.
        seed: of the initialization, the order and the augmentation.

    Raises:
        UsageError: a value out of range.
    """

    epochs: int = 150
    batch_size: int = 32
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    warmup_epochs: int = 1
    warmup_start: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.batch_size < 2:
            raise UsageError("batch_size must be at least 2: BatchNorm needs it.")
        for name in ("learning_rate", "final_learning_rate", "warmup_start"):
            if not (0 < getattr(self, name) < math.inf):
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf or self.warmup_epochs < 0:
            raise UsageError("weight_decay and warmup_epochs must not be negative.")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of one step, counted from 0: linear warm-up, then half a cosine over the remaining epochs."""
        warmup = min(self.warmup_epochs, self.epochs - 1) * steps_per_epoch
        if step < warmup:
            share = self.warmup_start + (1 - self.warmup_start) * step / warmup
            return self.learning_rate * share
        remaining = max(1, self.epochs * steps_per_epoch - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / remaining))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints."""
        return dataclasses.asdict(self)


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two descriptions, as `name: old → new`."""
    names = [*saved, *(name for name in wanted if name not in saved)]
    return [f"{name}: {saved.get(name)} → {wanted.get(name)}" for name in names if saved.get(name) != wanted.get(name)]


def refuse_differences(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise BadInputError where a run would be resumed with another configuration."""
    changed = differences(saved, wanted)
    if changed:
        raise BadInputError(
            f"The run was started with another configuration: {'; '.join(changed)}.",
            "Resume with the same options, or start a new run in another folder.",
        )
