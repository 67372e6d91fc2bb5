"""HEF, the hierarchical enhanced fusion block (equations 7 to 9): local, global and previous features into one.

Its attention and its MLP may be taken out for ablations. The paper's Table 10 doesn't say what then stands in their
place; ours is the plainest that keeps the shapes: see `networks.variants`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.config import Attention, Mlp
from hemf_export.networks.inverted_residual import IRMLP, SIRMLP
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.local_branch import layer_norm
from hemf_export.networks.mixed_attention import build_attention


class NormalizedProjection(nn.Module):
    """A 1×1 convolution and a BatchNorm, on rows: (rows, in) → (rows, out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.projection(rows))


class MapProjection(nn.Module):
    """The projection of (N, 3C, H, W) → (N, C, H, W) that stands where there is no SIRMLP: our reading of Table 10.

    It is SIRMLP's own first step, s = BN(1×1), alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = NormalizedProjection(3 * channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        return to_maps(self.squeeze(to_rows(maps)), *maps.shape[2:])


_MLPS = {"sirmlp": SIRMLP, "irmlp": IRMLP, "projection": MapProjection}


class HEF(nn.Module):
    """Fuses a local and a global feature map, and the output of an earlier, twice larger HEF if there is one.

    Usable on its own wherever two feature maps of one size are to be fused.

    Args:
        channels: C of all maps, and of the output; a previous output has C/2.
        previous: whether a previous output is fused too.
        heads: of Mixed Attention.
        memory_slots: of Mixed Attention.
        attention: see `HemfConfig`.
        mlp: the same; not "none".
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
        """(N, C, H, W) twice, and (N, C/2, 2H, 2W) if `previous` was said → (N, C, H, W)."""
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
