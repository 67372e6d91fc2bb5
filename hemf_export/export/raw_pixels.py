"""The network with raw pixels as its input: what `images.images.Preprocess` does to them becomes part of the graph.

The resize is Pillow's, to the last grey level. Its weights are integers of 2⁻²²: a sum of such numbers is too fine for
float32, not to speak of float16. So each weight is split into an integer of 2⁻¹¹ and the rest, for a product each; and
each sum into a whole number and what is above it. These are exact in float32, and in float16 too, if the rest is taken
within the product (`calibration.fp16` sees to that).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput, SourceSize
from hemf_export.networks.model import HEMF

_STEPS = 2**11  # of a weight's coarse part; the fine one has as many of those


class RawPixels(nn.Module):
    """The network with normalization inside, and the resize: (N, H, W, 3) uint8 → logits.

    Args:
        model: the network.
        taken: what it takes; raw, and of a source size if images come to it as they are.
    """

    def __init__(self, model: HEMF, taken: ModelInput) -> None:
        super().__init__()
        self.model = model
        preprocess = taken.preprocess
        self.resize = None if taken.source is None else Resize(preprocess, taken.source)
        self.scale: Tensor
        self.shift: Tensor
        scale = 1.0 / (255.0 * torch.tensor(preprocess.std, dtype=torch.float64))
        shift = -torch.tensor(preprocess.mean, dtype=torch.float64) / torch.tensor(preprocess.std, dtype=torch.float64)
        self.register_buffer("scale", scale.float().reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # The cast comes before the transpose: TensorRT refuses one of uint8.
        levels = pixels.float().permute(0, 3, 1, 2) if self.resize is None else self.resize(pixels)
        logits: Tensor = self.model(levels * self.scale + self.shift)
        return logits


class Resize(nn.Module):
    """(N, H, W, 3) uint8 of one size → (N, 3, size, size) float32, whole grey levels: `Preprocess.pixels`."""

    def __init__(self, preprocess: Preprocess, source: SourceSize) -> None:
        super().__init__()
        passes = preprocess.resampling(source.height, source.width)
        self.from_rows, self.from_columns = _used(passes.rows), _used(passes.columns)
        self.rows = Pass(passes.rows[:, self.from_rows], "rows")
        self.columns = Pass(passes.columns[:, self.from_columns], "columns")
        self.rows_first = passes.rows_first

    def forward(self, pixels: Tensor) -> Tensor:
        kept = pixels.float()[:, self.from_rows, self.from_columns]
        levels = kept.permute(0, 3, 1, 2)
        for one in (self.rows, self.columns) if self.rows_first else (self.columns, self.rows):
            levels = one(levels)
        return levels


class Pass(nn.Module):
    """One pass of the resize: whole grey levels (N, 3, H, W) → the same, fewer or more along one axis.

    Args:
        weights: (kept, taken) of `images.resampling`.
        along: which axis; the columns are multiplied from the right, the rows from the left.
    """

    def __init__(self, weights: NDArray[np.float64], along: Literal["rows", "columns"]) -> None:
        super().__init__()
        self.from_left = along == "rows"
        # What rounding adds to one weight is taken from the next: where pixels are alike, their fine sum is then small.
        coarse = np.diff(np.round(np.cumsum(weights, axis=1) * _STEPS), axis=1, prepend=0) / _STEPS
        fine = (weights - coarse) * _STEPS  # integers of 2⁻¹¹ as well
        self.coarse: Tensor
        self.register_buffer("coarse", self._oriented(coarse), persistent=False)
        self.fine: Tensor | None
        self.register_buffer("fine", self._oriented(fine) if fine.any() else None, persistent=False)

    def _oriented(self, weights: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(weights if self.from_left else weights.T, np.float32))

    def forward(self, levels: Tensor) -> Tensor:
        whole, rest = self._product(levels, self.coarse)
        # How far above the middle between two grey levels, in steps: what decides how the sum is rounded.
        above = rest * _STEPS - _STEPS / 2
        if self.fine is not None:
            steps, fraction = self._product(levels, self.fine)
            above = (above + steps) + fraction
        return whole + (torch.floor(torch.floor(above) * (1 / _STEPS)) + 1)

    def _product(self, levels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The product, and what of it is above whole numbers."""
        product = weights @ levels if self.from_left else levels @ weights
        whole = torch.floor(product)
        return whole, product - whole


def _used(weights: NDArray[np.float64]) -> slice:
    """Rows or columns of the source that have any weight."""
    places = np.flatnonzero(weights.any(0))
    return slice(int(places[0]), int(places[-1]) + 1)
