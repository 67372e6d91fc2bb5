"""BiFormer (Zhu et al. 2023) as published: keys and values gathered by an index of every single value.

Tensors have the names and shapes of the authors' checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hemf_export.networks.biformer import BiFormerConfig


class Qkv(nn.Module):
    """Queries in one tensor, keys and values in another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.qkv(x)
        return both[..., : self.dim], both[..., self.dim :]


class Routed(nn.Module):
    """Bi-level routing attention on (N, H, W, C)."""

    def __init__(self, dim: int, heads: int, windows: int, topk: int) -> None:
        super().__init__()
        self.dim, self.heads, self.windows, self.topk = dim, heads, windows, topk
        self.lepe = nn.Conv2d(dim, dim, 5, 1, 2, groups=dim)
        self.qkv = Qkv(dim)
        self.wo = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, c = x.shape
        p, m = self.windows, self.heads
        h, w = height // p, width // p
        x = x.reshape(n, p, h, p, w, c).permute(0, 1, 3, 2, 4, 5).reshape(n, p * p, h, w, c)
        q, kv = self.qkv(x)
        q_pixels = q.reshape(n, p * p, h * w, c)
        kv_pixels = kv.reshape(n, p * p, h * w, 2 * c)
        q_means, k_means = q.mean((2, 3)), kv[..., :c].mean((2, 3))
        v = kv[..., c:].reshape(n, p, p, h, w, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, height, width)
        lepe = self.lepe(v).permute(0, 2, 3, 1)

        with torch.no_grad():
            logits = (q_means * c**-0.5) @ k_means.transpose(-2, -1)
            index = torch.topk(logits, self.topk, dim=-1).indices
        everyone = kv_pixels.reshape(n, 1, p * p, h * w, 2 * c).expand(-1, p * p, -1, -1, -1)
        wide = index.reshape(n, p * p, self.topk, 1, 1).expand(-1, -1, -1, h * w, 2 * c)
        chosen = torch.gather(everyone, 2, wide)
        k, v = chosen[..., :c], chosen[..., c:]
        k = k.reshape(n * p * p, self.topk * h * w, m, c // m).permute(0, 2, 3, 1)
        v = v.reshape(n * p * p, self.topk * h * w, m, c // m).permute(0, 2, 1, 3)
        q = q_pixels.reshape(n * p * p, h * w, m, c // m).permute(0, 2, 1, 3)
        weights = ((q * c**-0.5) @ k).softmax(-1)
        out = weights @ v
        out = out.reshape(n, p, p, m, h, w, c // m).permute(0, 1, 4, 2, 5, 3, 6).reshape(n, height, width, c)
        return self.wo(out + lepe)


class Full(nn.Module):
    """Attention of all pixels of (N, H, W, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.lepe = nn.Conv2d(dim, dim, 5, 1, 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, c = x.shape
        lepe = self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        qkv = self.qkv(x.reshape(n, height * width, c))
        qkv = qkv.reshape(n, height * width, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1)
        out = (weights @ v).transpose(1, 2).reshape(n, height, width, c)
        return self.proj(out + lepe)


class Block(nn.Module):
    """Position convolution, attention and MLP on (N, C, H, W)."""

    def __init__(self, dim: int, attention: nn.Module, ratio: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, ratio * dim), nn.Identity(), nn.GELU(), nn.Linear(ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


class PlainBiFormer(nn.Module):
    """The whole network: (N, 3, H, W) → (N, classes)."""

    def __init__(self, config: BiFormerConfig) -> None:
        super().__init__()
        dims = [config.width * 2**i for i in range(4)]
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(3, dims[0] // 2, 3, 2, 1), nn.BatchNorm2d(dims[0] // 2), nn.GELU(),
                    nn.Conv2d(dims[0] // 2, dims[0], 3, 2, 1), nn.BatchNorm2d(dims[0]),
                )
            ]
        )  # fmt: skip
        for i in range(3):
            self.downsample_layers.append(
                nn.Sequential(nn.Conv2d(dims[i], dims[i + 1], 3, 2, 1), nn.BatchNorm2d(dims[i + 1]))
            )

        def attention(i: int) -> nn.Module:
            if i == 3:
                return Full(dims[i], config.last_heads)
            return Routed(dims[i], dims[i] // config.head_channels, config.windows, config.chosen[i])

        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dims[i], attention(i), config.mlp_ratio) for _ in range(config.depths[i])))
            for i in range(4)
        )
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for step, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(step(x))
        return self.head(self.norm(x).flatten(2).mean(-1))


def build(config: BiFormerConfig) -> nn.Module:
    """Build the network with PyTorch's own initial weights."""
    return PlainBiFormer(config)
