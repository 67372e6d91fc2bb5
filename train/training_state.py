"""What a run is in the middle of: what `last.pt` keeps beside the network, so that resuming makes the same of the rest.

Order, augmentation, mixing and drop path are drawn from seed, epoch and step; so the epoch is all of their state.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hemf_export.train.weight_average import WeightAverage


@dataclass
class Progress:
    """How far a run has come.

    Args:
        next_epoch: counted from 0.
        step_count: steps so far, those left out included: the schedule goes by it.
        skipped_steps: of them, whose gradients were not finite.
        skipped_in_a_row: of them, the last ones, whatever epochs they belong to.
        lost_epochs: the last epochs, as far as they came to nothing: no finite step, or validation that isn't finite.
        best_accuracy: of the best epoch, on the validation images.
        best_loss: of the same.
    """

    next_epoch: int = 0
    step_count: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    lost_epochs: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0

    def count_step(self, *, finite: bool) -> None:
        """One more step, which changed the weights if its gradients were finite."""
        self.step_count += 1
        self.skipped_steps += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    @property
    def steps_taken(self) -> int:
        """Steps that changed the weights."""
        return self.step_count - self.skipped_steps

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Progress:
        """The counters in a `last.pt`; one of an earlier version lacks some, and may have taken NaN for the best."""
        known = {field.name: saved[field.name] for field in dataclasses.fields(cls) if field.name in saved}
        if not math.isfinite(known["best_loss"]):
            known |= {"best_accuracy": cls.best_accuracy, "best_loss": cls.best_loss}
        return cls(**known)

    def take(self, accuracy: float, loss: float) -> bool:
        """Whether an epoch is the best so far: by accuracy, then by loss. It then is the one to beat."""
        better = accuracy > self.best_accuracy or (accuracy == self.best_accuracy and loss < self.best_loss)
        if better:
            self.best_accuracy, self.best_loss = accuracy, loss
        return better


@dataclass
class TrainingState:
    """All that changes while a run goes on.

    Args:
        network: the weights.
        optimizer: its moments.
        scaler: its scale, with float16.
        average: the averaged weights, if the recipe has them.
        progress: the counters.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)

    def finite(self) -> bool:
        """Whether all weights and statistics are, the averaged ones too: what isn't will never be again."""
        averaged = [] if self.average is None else list(self.average.weights.values())
        return all(bool(torch.isfinite(value).all()) for value in (*self.network.state_dict().values(), *averaged))

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and kept: the averaged weights, or the network's own; on the CPU."""
        if self.average is not None:
            return self.average.state_dict_for(self.network)
        return _on_cpu(self.network)

    def to_dict(self) -> dict[str, Any]:
        """What resuming needs beside `weights`, in plain types and tensors."""
        averaging = {}
        if self.average is not None:
            averaging = {"network": _on_cpu(self.network), "average_updates": self.average.updates}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **averaging,
            **dataclasses.asdict(self.progress),
        }

    def restore(self, weights: dict[str, Tensor], saved: dict[str, Any]) -> None:
        """The inverse of `weights` and `to_dict`."""
        self.network.load_state_dict(saved.get("network", weights))
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"] and self.scaler.is_enabled():  # a run may go on in another precision
            self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load({"updates": saved["average_updates"], "weights": weights})
        self.progress = Progress.restored(saved)


def seed_of(seed: int, epoch: int, rank: int) -> int:
    """Seed of torch's generators in an epoch: what drop path draws is a matter of seed, epoch and process alone."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0])


def _on_cpu(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
