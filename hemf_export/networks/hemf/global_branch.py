"""EGF, the block of the global branch: retention with two-dimensional decay and rotation (equations 3 to 6).

Where the paper's text and its code differ, this follows the code: the decay is added before the softmax, and a
depthwise 5×5 convolution of the values ("lepe") is added to the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.hemf.local_branch import layer_norm
from hemf_export.networks.layout import to_maps, to_rows


def rotation_angles(head_channels: int) -> Tensor:
    """θ of each pair of channels: 10000^-linspace(0, 1, d/2), shape (d/2,)."""
    return 1.0 / 10000 ** torch.linspace(0, 1, head_channels // 2)


def decay_rates(heads: int) -> Tensor:
    """λ of each head: ln(1 - 2^(-1 - 3h/heads)), shape (heads,)."""
    return torch.log(1 - 2.0 ** (-1 - 3 * torch.arange(heads, dtype=torch.float32) / heads))


class PositionTables(nn.Module):
    """Rotation and decay tables of one stage, computed once for its size. Buffers that aren't saved.

    Shapes: `cosine`, `sine` (H, W, heads, d), repeated for every head, so that rotations need no broadcasting;
    `quarter_turn` (d, d), which maps (a, b) to (-b, a) in each pair of channels; `decay_width` (heads, W, W);
    `decay_height` (heads, H, H).
    """

    cosine: Tensor
    sine: Tensor
    quarter_turn: Tensor
    decay_width: Tensor
    decay_height: Tensor

    def __init__(self, head_channels: int, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width, self.heads = height, width, heads
        angles = rotation_angles(head_channels).repeat_interleave(2)
        turns = torch.arange(height * width, dtype=torch.float32)[:, None] * angles
        quarter_turn = torch.zeros(head_channels, head_channels)
        even = torch.arange(0, head_channels, 2)
        quarter_turn[even + 1, even] = -1.0
        quarter_turn[even, even + 1] = 1.0
        self.register_buffer("cosine", self._for_heads(torch.cos(turns)), persistent=False)
        self.register_buffer("sine", self._for_heads(torch.sin(turns)), persistent=False)
        self.register_buffer("quarter_turn", quarter_turn, persistent=False)
        self.register_buffer("decay_width", self._decay(heads, width), persistent=False)
        self.register_buffer("decay_height", self._decay(heads, height), persistent=False)

    @staticmethod
    def _decay(heads: int, length: int) -> Tensor:
        position = torch.arange(length)
        return (position[:, None] - position).abs() * decay_rates(heads)[:, None, None]

    def _for_heads(self, table: Tensor) -> Tensor:
        """(H*W, d) → (H, W, heads, d), repeated for each head."""
        return table.reshape(self.height, self.width, 1, -1).repeat(1, 1, self.heads, 1)

    def split(self, rows: Tensor) -> Tensor:
        """(N*H*W, C) → (N, H, W, heads, d)."""
        return rows.reshape(-1, self.height, self.width, self.heads, rows.shape[1] // self.heads)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate each pair of channels of (N, H, W, heads, d) by the angle of its position."""
        return x * self.cosine + (x @ self.quarter_turn) * self.sine


class Retention(nn.Module):
    """Axial attention, along the width and then the height, with decay by distance: never over all H*W pairs.

    Heads are moved one axis at a time: on a CPU that is several times faster than a general permutation.

    Args:
        channels: C.
        heads: number of heads; head h has the contiguous channels from h*C/heads on.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.positional = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, tables: PositionTables) -> Tensor:
        """(N*H*W, C) → (N*H*W, C); H and W are those of the tables."""
        height, width = tables.height, tables.width
        query = tables.rotate(tables.split(self.query(rows)))
        key_rows = self.key(rows)
        key = tables.rotate(tables.split(key_rows if self.scale == 1 else key_rows * self.scale))  # 1 after folding
        value_rows = self.value(rows)
        value = tables.split(value_rows)

        # Along the width: (N, H, heads, W, d) with (N, H, heads, d, W).
        scores = query.permute(0, 1, 3, 2, 4) @ key.permute(0, 1, 3, 4, 2) + tables.decay_width
        mixed = scores.softmax(-1) @ value.permute(0, 1, 3, 2, 4)
        # Along the height: (N, W, heads, H, d) with (N, W, heads, d, H).
        scores = query.permute(0, 2, 3, 1, 4) @ key.permute(0, 2, 3, 4, 1) + tables.decay_height
        mixed = scores.softmax(-1) @ mixed.permute(0, 3, 2, 1, 4)

        joined = mixed.permute(0, 3, 1, 2, 4).reshape(-1, rows.shape[1])
        positional = to_rows(self.positional(to_maps(value_rows, height, width)))
        return self.output(joined + positional)


class EGF(ResidualBlock):
    """Efficient global feature block: layers of retention and a Linear, with two norms shared by all layers.

    Layer j: x = norm1(retention_j(x) + x); x = norm2(linear_j(x) + x). Equations (5) and (6).

    Args:
        channels: C, kept.
        height: height of the maps in pixels, which the tables depend on.
        width: width of the maps in pixels, likewise.
        depth: number of layers.
        heads: heads of retention.
    """

    def __init__(self, channels: int, height: int, width: int, *, depth: int = 3, heads: int = 8) -> None:
        super().__init__(layers=depth)
        self.tables = PositionTables(channels // heads, heads, height, width)
        self.retentions = nn.ModuleList(Retention(channels, heads) for _ in range(depth))
        self.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(depth))
        self.norm1 = layer_norm(channels)
        self.norm2 = layer_norm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W); torch raises for another size than that of the tables."""
        rows = to_rows(maps)
        for layer, (retention, linear) in enumerate(zip(self.retentions, self.linears, strict=True)):
            rows = self.norm1(self.branch(retention(rows, self.tables), len(maps), layer) + rows)
            rows = self.norm2(self.branch(linear(rows), len(maps), layer) + rows)
        return to_maps(rows, *maps.shape[2:])
