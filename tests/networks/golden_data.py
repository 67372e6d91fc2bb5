"""Numbers of the authors' own code, for seeded weights."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """Seeded weights of one network in its authors' names, and what their code computes with them."""

    state: dict[str, Tensor]
    images: Tensor
    logits: np.ndarray
    statistics: dict[str, np.ndarray]  # "<tap>_channel_mean", "<tap>_channel_std": (images, channels)

    def error(self, tap: str, values: Tensor, axes: tuple[int, ...]) -> float:
        """Largest difference of a tap's channel means and deviations, relative to the largest of them."""
        wide, count, worst = values.double(), len(values), 0.0
        for name, found in (("mean", wide.mean(axes)), ("std", wide.std(axes))):
            expected = self.statistics[f"{tap}_channel_{name}"][:count]
            worst = max(worst, np.abs(found.numpy() - expected).max() / np.abs(expected).max())
        return worst


def keys(shared: Path, name: str) -> dict[str, list[int]]:
    """Shapes of the authors' tensors by name, for 7 classes, of a registered network."""
    return json.loads((shared / "peer-models" / f"{_stem(name)}_keys.json").read_text())


def load(shared: Path, name: str, images: np.ndarray) -> Golden:
    """Load the numbers of a registered network for `images`, uint8 (N, H, W, 3), the first of those that there are."""
    sys.path.insert(0, str(shared / "peer-models"))
    try:
        import make_peer_weights
    finally:
        sys.path.pop(0)
    state = make_peer_weights.state_dict(keys(shared, name))
    values = dict(np.load(shared / "peer-models" / f"{_stem(name)}.npz"))
    return Golden(
        {key: torch.from_numpy(np.array(value)) for key, value in state.items()},
        (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5,
        values["logits"][: len(images)],
        {key: value for key, value in values.items() if "_channel_" in key},
    )


def _stem(name: str) -> str:
    return name.replace("-", "_")
