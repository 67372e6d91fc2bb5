"""The state of a run, which `last.pt` keeps beside the network so that resuming gives the same result.

Order, augmentation, mixing and drop path are drawn from seed, epoch and step: the epoch is all of their state.
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

# What an optimizer's parameter groups hold of the device that computes the step, and not of the recipe.
_OF_THE_DEVICE = ("fused", "foreach", "capturable", "differentiable")


@dataclass
class Counters:
    """The counters of a run, and its best epoch so far.

    Args:
        next_epoch: counted from 0.
        step_count: steps so far, including skipped ones; the learning-rate schedule uses it.
        skipped_steps: steps whose gradients were not finite.
        skipped_in_a_row: the most recent consecutive skipped steps, over epochs.
        lost_epochs: the most recent consecutive epochs without a finite step or a finite validation loss.
        best_accuracy: validation accuracy of the best epoch, 0 to 1; -1 before the first.
        best_loss: validation loss of the best epoch.
    """

    next_epoch: int = 0
    step_count: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    lost_epochs: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0

    def count_step(self, *, finite: bool) -> None:
        """Count a step, which changed the weights if its gradients were finite."""
        self.step_count += 1
        self.skipped_steps += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    @property
    def steps_taken(self) -> int:
        """Number of steps that changed the weights."""
        return self.step_count - self.skipped_steps

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Counters:
        """Restore the counters of a `last.pt`; an earlier version's lacks some, and may have NaN as the best loss."""
        known = {field.name: saved[field.name] for field in dataclasses.fields(cls) if field.name in saved}
        if not math.isfinite(known["best_loss"]):
            known |= {"best_accuracy": cls.best_accuracy, "best_loss": cls.best_loss}
        return cls(**known)

    def update_best(self, accuracy: float, loss: float) -> bool:
        """Whether an epoch is the best so far, by accuracy and then by loss; if so, record it as the best."""
        better = accuracy > self.best_accuracy or (accuracy == self.best_accuracy and loss < self.best_loss)
        if better:
            self.best_accuracy, self.best_loss = accuracy, loss
        return better


@dataclass
class TrainingState:
    """Everything that changes during a run.

    Args:
        network: the network that is trained.
        optimizer: its optimizer, with moments.
        scaler: the gradient scaler, with its scale under float16.
        average: the averaged weights, if the recipe asks for them.
        counters: its counters.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None = None
    counters: Counters = dataclasses.field(default_factory=Counters)

    def finite(self) -> bool:
        """Whether all weights and statistics are finite, averaged ones included: NaN never goes away again."""
        averaged = [] if self.average is None else list(self.average.weights.values())
        return all(bool(torch.isfinite(value).all()) for value in (*self.network.state_dict().values(), *averaged))

    def weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated and kept, on the CPU: the averaged ones, or the network's own."""
        if self.average is not None:
            return self.average.state_dict_for(self.network)
        return _on_cpu(self.network)

    def to_dict(self) -> dict[str, Any]:
        """The state that resuming needs beside `weights`, in plain types and tensors."""
        averaging = {}
        if self.average is not None:
            averaging = {"network": _on_cpu(self.network), "average_updates": self.average.updates}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **averaging,
            **dataclasses.asdict(self.counters),
        }

    def restore(self, weights: dict[str, Tensor], saved: dict[str, Any]) -> None:
        """Restore the state from what `weights` and `to_dict` returned, on any device and in any memory format."""
        self.network.load_state_dict(saved.get("network", weights))
        _restore_optimizer(self.optimizer, saved["optimizer"])
        if saved["scaler"] and self.scaler.is_enabled():  # a run may go on in another precision
            self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load({"updates": saved["average_updates"], "weights": weights})
        self.counters = Counters.restored(saved)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, saved on any device, for the implementation that `optimizer` was made with.

    PyTorch puts back the saved `fused`, and by it places the step counts (`Optimizer.load_state_dict`); but whether
    gradients are unscaled in the step was settled when the optimizer was made (`_step_supports_amp_scaling` in
    torch/optim/adam.py). The moments keep their strides, and the fused kernel goes through memory: on CUDA it refuses
    moments in another layout than the parameters', on a CPU it mixes them up.
    """
    groups = [
        {**theirs, **{name: ours[name] for name in _OF_THE_DEVICE}}
        for ours, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.empty_like(parameter).copy_(state[name])


def seed_of(seed: int, epoch: int, rank: int) -> int:
    """Seed of torch's generators in an epoch, so that drop path depends on seed, epoch and process alone."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0])


def _on_cpu(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
