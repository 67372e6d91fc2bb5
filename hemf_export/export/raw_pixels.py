"""A network with raw pixels as its input: the steps of `images.images.Preprocess` as part of the graph.

The resize equals Pillow's exactly. Its weights are multiples of 2⁻²²: sums of them need more digits than float32 has,
let alone float16. So each weight is split into a multiple of 2⁻¹¹ and a remainder, with a product each; and each sum
into a whole number and a fraction. These are exact in float32, and in float16 too if the fraction is computed within
the product (which `calibration.fp16` ensures).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput, SourceSize

_STEPS = 2**11  # steps of a weight's coarse part, each divided into as many by the fine one


class RawPixels(nn.Module):
    """A network with normalization, and if need be the resize, inside: (N, H, W, 3) uint8 → logits.

    Args:
        model: the network.
        model_input: its input: raw, with a source size if images aren't resized beforehand.
    """

    def __init__(self, model: nn.Module, model_input: ModelInput) -> None:
        super().__init__()
        self.model = model
        preprocess = model_input.preprocess
        self.resize = None if model_input.source is None else Resize(preprocess, model_input.source)
        self.scale: Tensor
        self.shift: Tensor
        scale = 1.0 / (255.0 * torch.tensor(preprocess.std, dtype=torch.float64))
        shift = -torch.tensor(preprocess.mean, dtype=torch.float64) / torch.tensor(preprocess.std, dtype=torch.float64)
        self.register_buffer("scale", scale.float().reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # The cast is before the transpose, as TensorRT has none for uint8.
        levels = pixels.float().permute(0, 3, 1, 2) if self.resize is None else self.resize(pixels)
        logits: Tensor = self.model(levels * self.scale + self.shift)
        return logits


class Resize(nn.Module):
    """Resize of `Preprocess.pixels`: (N, H, W, 3) uint8 of one size → (N, 3, size, size) float32 grey levels."""

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
    """One pass of the resize, along one axis of whole grey levels (N, 3, H, W).

    Args:
        weights: matrix of `images.resampling`, (kept, used).
        along: the axis; rows are multiplied from the left, columns from the right.
    """

    def __init__(self, weights: NDArray[np.float64], along: Literal["rows", "columns"]) -> None:
        super().__init__()
        self.from_left = along == "rows"
        # Rounding errors of one weight are carried to the next, so that the fine sum of similar pixels is small.
        coarse = np.diff(np.round(np.cumsum(weights, axis=1) * _STEPS), axis=1, prepend=0) / _STEPS
        fine = (weights - coarse) * _STEPS  # multiples of 2⁻¹¹ as well
        self.coarse: Tensor
        self.register_buffer("coarse", self._oriented(coarse), persistent=False)
        self.fine: Tensor | None
        self.register_buffer("fine", self._oriented(fine) if fine.any() else None, persistent=False)

    def _oriented(self, weights: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(weights if self.from_left else weights.T, np.float32))

    def forward(self, levels: Tensor) -> Tensor:
        whole, rest = self._product(levels, self.coarse)
        # Distance above the midpoint between two grey levels, in steps, which decides the rounding.
        above = rest * _STEPS - _STEPS / 2
        if self.fine is not None:
            steps, fraction = self._product(levels, self.fine)
            above = (above + steps) + fraction
        return whole + (torch.floor(torch.floor(above) * (1 / _STEPS)) + 1)

    def _product(self, levels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Product, as its whole and fractional parts."""
        product = weights @ levels if self.from_left else levels @ weights
        whole = torch.floor(product)
        return whole, product - whole


def _used(weights: NDArray[np.float64]) -> slice:
    """Range of rows or columns of the source that have non-zero weights."""
    places = np.flatnonzero(weights.any(0))
    return slice(int(places[0]), int(places[-1]) + 1)
