"""Exponential moving average (EMA) of the weights, which is evaluated and kept instead of the last step's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's parameters and floating-point buffers (BatchNorm's statistics).

    average = d · average + (1 - d) · weights, after each step; d = min(decay, (1 + t) / (10 + t)) at the t-th update,
    counted from 0, so that the initial weights are soon forgotten (Polyak and Juditsky 1992; the warm-up is that of
    TensorFlow's ExponentialMovingAverage). Integer buffers, such as BatchNorm's counters, are not averaged.

    Args:
        model: the network that the average starts from, already on its device.
        decay: at least 0 and less than 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] = {name: value.clone() for name, value in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights after a step; not to be called after a skipped step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = _floating(model)
        torch._foreach_lerp_(list(self.weights.values()), [current[name] for name in self.weights], 1 - decay)
        self.updates += 1

    @property
    def state(self) -> dict[str, Any]:
        """The state that resuming needs: updates and weights, on the CPU."""
        return {"updates": self.updates, "weights": {name: _saved(value) for name, value in self.weights.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a `state`, which must be of the same network."""
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
        self.updates = state["updates"]

    def state_dict_for(self, model: nn.Module) -> dict[str, Tensor]:
        """The complete state dict of the averaged network, on the CPU, for a checkpoint."""
        return {name: _saved(self.weights.get(name, value)) for name, value in model.state_dict().items()}

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged weights into `model` for the duration of the block; then restore its own exactly."""
        own = {name: value.clone() for name, value in _floating(model).items()}
        model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items() if value.is_floating_point()}


def _saved(value: Tensor) -> Tensor:
    # A copy, even of a tensor on the CPU: training goes on changing the original.
    return value.detach().to("cpu", copy=True).contiguous()
