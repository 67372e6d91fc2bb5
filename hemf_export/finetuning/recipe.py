"""Hyperparameters of quantization-aware fine-tuning. Imports no torch, so that the command line starts quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hemf_export.files.errors import UsageError


@dataclass(frozen=True)
class FineTuning:
    """The hyperparameters of quantization-aware fine-tuning.

    Args:
        epochs: passes over the training images.
        batch_size: images per optimizer step.
        learning_rate: initial learning rate of Adam; decays to 0 along a cosine.
        distillation_weight: share of the divergence from the float network's logits in the loss; the rest is
            cross-entropy. See `train.distillation`.
        temperature: temperature of the distillation.
        gradient_clip: largest norm of all gradients together: a value near a rounding threshold can cause a large one.
        seed: seed of order and augmentation.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 3e-5
    distillation_weight: float = 0.5
    temperature: float = 2.0
    gradient_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for name in ("learning_rate", "temperature", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}.")
        if not 0 <= self.distillation_weight <= 1:
            raise UsageError(f"distillation_weight is a share, 0 to 1, not {self.distillation_weight}.")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative: {self.seed}.")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, out of `steps`."""
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types, for manifests."""
        return dict(vars(self))
