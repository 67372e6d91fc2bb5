"""HEF, the hierarchical enhanced fusion block (equations 7 to 9), and the MLPs that it ends with.

HEF fuses local, global and previous features. SIRMLP is its inverted residual MLP (equations 17 to 19), IRMLP what the
paper compares that with.

Ablations leave out its attention and its MLP. The paper's Table 10 doesn't say what replaces them; ours is the simplest
that keeps the shapes: see `networks.hemf.variants`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.hemf.config import Attention, Mlp
from hemf_export.networks.hemf.local_branch import layer_norm
from hemf_export.networks.hemf.mixed_attention import build_attention
from hemf_export.networks.layout import to_maps, to_rows


class NormalizedProjection(nn.Module):
    """A 1×1 convolution and a BatchNorm, on rows: (rows, in) → (rows, out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.projection(rows))


class SIRMLP(nn.Module):
    """Squeezed inverted residual MLP, 3C channels → C: squeeze, then a dense 3×3 convolution on C channels only.

    s = BN(1×1 x); t = BN(GELU(3×3 s) + s); out = BN(1×1 GELU(1×1 t)). The paper's equation (18) says depthwise; its
    code and Table 3 have the dense convolution.

    Args:
        channels: C.
        expansion: width of the hidden layer, in C.
    """

    def __init__(self, channels: int, *, expansion: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(3 * channels, channels)
        self.squeeze_norm = nn.BatchNorm1d(channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convolution_norm = nn.BatchNorm1d(channels)
        self.expand = nn.Linear(channels, expansion * channels, bias=False)
        self.reduce = nn.Linear(expansion * channels, channels, bias=False)
        self.reduce_norm = nn.BatchNorm1d(channels)
        self.activation = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 3C, H, W) → (N, C, H, W)."""
        height, width = maps.shape[2:]
        squeezed = self.squeeze_norm(self.squeeze(to_rows(maps)))
        mixed = to_rows(self.activation(self.convolution(to_maps(squeezed, height, width))))
        mixed = self.convolution_norm(mixed + squeezed)
        out = self.reduce_norm(self.reduce(self.activation(self.expand(mixed))))
        return to_maps(out, height, width)


class IRMLP(nn.Module):
    """Inverted residual MLP, which Table 3 compares: SIRMLP without the squeeze, all on 3C channels; `mlp="irmlp"`.

    BN(3×3 GELU + input), then 1×1 to 12C, GELU, 1×1 to C, BN. (N, 3C, H, W) → (N, C, H, W).
    """

    def __init__(self, channels: int, *, expansion: int = 4) -> None:
        super().__init__()
        wide = 3 * channels
        self.convolution = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.convolution_norm = nn.BatchNorm1d(wide)
        self.expand = nn.Linear(wide, expansion * wide, bias=False)
        self.reduce = nn.Linear(expansion * wide, channels, bias=False)
        self.reduce_norm = nn.BatchNorm1d(channels)
        self.activation = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        mixed = self.convolution_norm(to_rows(self.activation(self.convolution(maps)) + maps))
        out = self.reduce_norm(self.reduce(self.activation(self.expand(mixed))))
        return to_maps(out, height, width)


class MapProjection(nn.Module):
    """Projection (N, 3C, H, W) → (N, C, H, W) in place of SIRMLP: our reading of Table 10.

    SIRMLP's first step, s = BN(1×1), alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = NormalizedProjection(3 * channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        return to_maps(self.squeeze(to_rows(maps)), *maps.shape[2:])


_MLPS = {"sirmlp": SIRMLP, "irmlp": IRMLP, "projection": MapProjection}


class HEF(nn.Module):
    """Hierarchical fusion of a local and a global feature map and, from stage 2 on, the previous HEF's output.

    Usable on its own to fuse two feature maps of one size.

    Args:
        channels: C of both maps and the output; a previous output has C/2.
        previous: whether a previous output is fused too.
        heads: heads of Mixed Attention.
        memory_slots: memory rows of Mixed Attention.
        attention: see `HemfConfig`.
        mlp: see `HemfConfig`; not "none".
    """

    def __init__(
        self, channels: int, *, previous: bool, heads: int = 8, memory_slots: int = 64, attention: Attention = "mixed",
        mlp: Mlp = "sirmlp",
    ) -> None:  # fmt: skip
        super().__init__()
        self.local_projection = NormalizedProjection(channels, channels)
        self.global_projection = NormalizedProjection(channels, channels)
        if previous:
            self.previous_projection = NormalizedProjection(channels // 2, channels)
        joined = (3 if previous else 2) * channels
        self.joint_norm = layer_norm(joined)
        self.joint_projection = NormalizedProjection(joined, channels)
        self.global_attention = build_attention(attention, channels, heads=heads, memory_slots=memory_slots)
        self.local_attention = build_attention(attention, channels, heads=heads, memory_slots=memory_slots)
        self.output_norm = layer_norm(3 * channels)
        self.mlp = _MLPS[mlp](channels)

    def forward(self, local: Tensor, global_: Tensor, previous: Tensor | None = None) -> Tensor:
        """Two maps (N, C, H, W), and (N, C/2, 2H, 2W) if the block has a previous one → (N, C, H, W)."""
        height, width = local.shape[2:]
        parts = [self.local_projection(to_rows(local)), self.global_projection(to_rows(global_))]
        carried = None if previous is None else self._carry(previous)
        joined = torch.cat(parts if carried is None else [carried, *parts], 1)
        joined = F.gelu(self.joint_projection(self.joint_norm(joined)))

        attended = [to_rows(self.global_attention(global_)), to_rows(self.local_attention(local)), joined]
        fused = self.mlp(to_maps(self.output_norm(torch.cat(attended, 1)), height, width))
        return fused if carried is None else to_maps(to_rows(fused) + carried, height, width)

    def _carry(self, previous: Tensor) -> Tensor:
        """h_x: ReLU(BN(1×1)) of the previous output, then 2×2 average pooling; rows of the smaller map."""
        projected = self.previous_projection(to_rows(previous)).relu()
        return to_rows(F.avg_pool2d(to_maps(projected, *previous.shape[2:]), 2))
