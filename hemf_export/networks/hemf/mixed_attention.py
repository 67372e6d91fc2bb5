"""Mixed Attention (equations 10 to 16): external attention, then spatial and channel gates; and each alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hemf_export.networks.hemf.config import Attention
from hemf_export.networks.hemf.local_branch import layer_norm
from hemf_export.networks.layout import normalize, to_maps, to_rows


class MHEA(nn.Module):
    """Multi-head external attention: all heads attend to one small learned memory.

    The softmax is over the T pixels; its result is divided by its sum over the memory's rows, without an epsilon: in
    float16 whole rows can become 0/0, so it has to be computed in float32.

    Args:
        channels: C.
        heads: number of heads, each with contiguous channels.
        memory_slots: rows of the memory.
    """

    def __init__(self, channels: int, *, heads: int = 8, memory_slots: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.memory_key = nn.Linear(channels // heads, memory_slots, bias=False)
        self.memory_value = nn.Linear(memory_slots, channels // heads, bias=False)

    def forward(self, rows: Tensor, tokens: int) -> Tensor:
        """(N*T, C) → (N*T, C), where T = `tokens` is the number of pixels of an image."""
        channels = rows.shape[1]
        # Tokens on the last axis: (N, heads, d, T). The softmax then runs along memory.
        heads = (
            rows.reshape(-1, tokens, channels).transpose(1, 2).reshape(-1, self.heads, channels // self.heads, tokens)
        )
        if self.training:
            mixed = self._with_cheap_gradients(heads.flatten(0, 1))
        else:
            attention = (self.memory_key.weight @ heads).softmax(-1)
            attention = attention / attention.sum(2, keepdim=True)
            mixed = self.memory_value.weight @ attention
        return mixed.reshape(-1, channels, tokens).transpose(1, 2).reshape(-1, channels)

    def _with_cheap_gradients(self, heads: Tensor) -> Tensor:
        """Attend as in evaluation but for rounding, (N*heads, d, T) → (N*heads, d, T), with a cheaper backward pass.

        A softmax divided by its sum over the memory is the softmax over the memory of its logarithm, which takes torch
        one backward pass instead of six: on a CPU that saves a sixth of a training step. Products are batched, so that
        no transposed copies are made.
        """
        key, value = (each.weight.expand(len(heads), -1, -1) for each in (self.memory_key, self.memory_value))
        return value @ (key @ heads).log_softmax(-1).softmax(1)


class SpatialGate(nn.Module):
    """One gate per pixel: sigmoid(7×7 convolution of [mean, maximum over the channels]).

    (N, C, H, W) → (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
        return self.convolution(pooled).sigmoid()


class ChannelGate(nn.Module):
    """One gate per channel, from its mean and maximum over the pixels: (N, C, H, W) → (N, C, 1, 1)."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        mean = self.excite(self.squeeze(maps.mean((2, 3))).relu())
        maximum = self.excite(self.squeeze(maps.amax((2, 3))).relu())
        return (mean + maximum).sigmoid()[:, :, None, None]


class ExternalAttention(nn.Module):
    """Mixed Attention without its gates, equations 10 to 12: n = LN(x); m = LN(MHEA(n)·n), with one LN.

    Args:
        channels: C, kept.
        heads: heads of MHEA.
        memory_slots: memory rows of MHEA.
    """

    def __init__(self, channels: int, *, heads: int = 8, memory_slots: int = 64) -> None:
        super().__init__()
        self.norm = layer_norm(channels)
        self.mhea = MHEA(channels, heads=heads, memory_slots=memory_slots)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        height, width = maps.shape[2:]
        rows = to_rows(normalize(self.norm, maps))
        return normalize(self.norm, to_maps(self.mhea(rows, height * width) * rows, height, width))


class MixedAttention(ExternalAttention):
    """Mixed Attention: m of `ExternalAttention`; s = m·spatial gate(m); out = s·channel gate(s).

    Args:
        channels: C, kept.
        heads: heads of MHEA.
        memory_slots: memory rows of MHEA.
    """

    def __init__(self, channels: int, *, heads: int = 8, memory_slots: int = 64) -> None:
        super().__init__(channels, heads=heads, memory_slots=memory_slots)
        self.spatial_gate = SpatialGate()
        self.channel_gate = ChannelGate(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        mixed = super().forward(maps)
        mixed = mixed * self.spatial_gate(mixed)
        return mixed * self.channel_gate(mixed)


class GatedAttention(nn.Module):
    """Mixed Attention without MHEA: m = LN(x); s = m·spatial gate(m); out = s·channel gate(s).

    Our reading of Table 10's "CA & SA": the paper doesn't say what the input of the gates is. One of the two norms
    remains, as normalizing twice would add nothing.

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = layer_norm(channels)
        self.spatial_gate = SpatialGate()
        self.channel_gate = ChannelGate(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        gated = normalize(self.norm, maps)
        gated = gated * self.spatial_gate(gated)
        return gated * self.channel_gate(gated)


def build_attention(kind: Attention, channels: int, *, heads: int, memory_slots: int) -> nn.Module:
    """Build the attention of a fusion block, (N, C, H, W) → (N, C, H, W); "none" is the identity."""
    if kind == "none":
        return nn.Identity()
    if kind == "ca-sa":
        return GatedAttention(channels)
    external = MixedAttention if kind == "mixed" else ExternalAttention
    return external(channels, heads=heads, memory_slots=memory_slots)
