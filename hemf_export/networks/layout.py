"""Convert between feature maps (N, C, H, W), channels-last tensors (N, H, W, C) and rows (N*H*W, C).

Modules of most networks take and return feature maps. Inside, products over channels work on rows, one per pixel. In
eager mode with channels-last memory all conversions are views; in an exported graph adjacent pairs cancel, and plain
Gemms remain.
"""

from __future__ import annotations

from torch import Tensor, nn


def normalize(norm: nn.LayerNorm, maps: Tensor) -> Tensor:
    """Layer norm over the channels of (N, C, H, W)."""
    normalized: Tensor = norm(maps.permute(0, 2, 3, 1))
    return normalized.permute(0, 3, 1, 2)


def to_rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N*H*W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def to_maps(rows: Tensor, height: int, width: int) -> Tensor:
    """(N*H*W, C) → (N, C, H, W)."""
    return rows.reshape(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)
