"""Rounding that gradients pass through: what INT8 and float16 do to values, in float32 and trainable.

Rounding has no gradient, so that of the value itself stands in for it (the straight-through estimator: Bengio et al.
2013, arXiv 1308.3432; in quantization-aware training: Jacob et al. 2018, arXiv 1712.05877). What is clipped gets none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Round(torch.autograd.Function):
    """To the nearest integer, halves to even, as QuantizeLinear does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Half(torch.autograd.Function):
    """To the nearest float16. A cast's own gradient would be float16 too, and vanish."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.half().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def quantize(values: Tensor, scale: Tensor, zero: Tensor | float, limits: tuple[float, float]) -> Tensor:
    """round(values / scale) + zero, clipped to `limits`; steps are whole numbers in float32.

    Args:
        values: of any shape.
        scale: width of a step; broadcast.
        zero: the step of the value 0; broadcast.
        limits: the smallest and the largest step.
    """
    steps: Tensor = _Round.apply(values / scale)  # type: ignore[no-untyped-call]
    return (steps + zero).clamp(*limits)


def dequantize(steps: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
    """(steps - zero) · scale."""
    return (steps - zero) * scale


def to_half(values: Tensor) -> Tensor:
    """Rounded to float16, in float32; beyond its range infinite."""
    rounded: Tensor = _Half.apply(values)  # type: ignore[no-untyped-call]
    return rounded
