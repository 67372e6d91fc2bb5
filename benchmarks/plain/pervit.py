"""PerViT as its authors write it (Min et al. 2022, arXiv:2206.06801), in plain PyTorch.

An independent transcription with their names: the tests' oracle, and the baseline that our network is measured against.
The position weights are computed in the forward pass, as in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.pervit import PerVitConfig


def build(config: PerVitConfig) -> nn.Module:
    """Build the network, with PyTorch's initial weights."""
    return PerViT(config)


class Position(nn.Module):
    """Position weights in (0, 1) from encoded distances."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = nn.Conv2d(hidden, hidden, 3), nn.GroupNorm(hidden, hidden)
        self.conv2, self.gn2 = nn.Conv2d(hidden, heads, 3), nn.GroupNorm(heads, heads)

    def forward(self, rpe: Tensor) -> Tensor:
        side = rpe.shape[0]
        x = rpe[2:-2, 2:-2].reshape(-1, side, side, rpe.shape[-1]).permute(0, 3, 1, 2)
        x = F.relu(self.gn1(self.conv1(x)))
        x = torch.sigmoid(self.gn2(self.conv2(x)))
        return x.permute(1, 0, 2, 3).flatten(2)[None]


class Attention(nn.Module):
    """Attention with exponentials weighted by position."""

    def __init__(self, d: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (d // heads) ** -0.5
        self.activation = Position(hidden, heads)
        self.to_qkv, self.proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)

    def forward(self, x: Tensor, rpe: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = (t.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3) for t in self.to_qkv(x).chunk(3, dim=-1))
        z = (q @ k.transpose(-2, -1)) * self.scale
        a = self.activation(rpe) * torch.exp(z - z.max(-1, keepdim=True)[0])
        a = a / a.abs().sum(-1, keepdim=True).clamp(min=1e-12)
        return self.proj((a @ v).permute(0, 2, 1, 3).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, d: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Conv(nn.Module):
    """Depthwise convolution on the grid."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(d, d, 3, 1, 1, groups=d)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        side = int(n**0.5)
        return self.proj(x.transpose(1, 2).reshape(b, d, side, side)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Transformer block."""

    def __init__(self, config: PerVitConfig, d: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.res_path = nn.Linear(d, out) if d != out else nn.Identity()
        self.attn = Attention(d, config.heads, config.position_channels)
        self.conv, self.mlp = Conv(d), Mlp(d, config.mlp_ratio * d, out)

    def forward(self, x: Tensor, rpe: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(self.conv(x)), rpe)
        return self.res_path(x) + self.mlp(self.norm2(x))


class Stem(nn.Module):
    """Four convolutions and a projection."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(cin, cout, 3, 2, 1), nn.BatchNorm2d(cout), nn.ReLU())
            for cin, cout in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.conv1x1 = nn.Conv2d(widths[-1], widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return self.conv1x1(x).flatten(2).transpose(1, 2)


class PerViT(nn.Module):
    """The whole network."""

    def __init__(self, config: PerVitConfig) -> None:
        super().__init__()
        self.conv_layers = Stem([*config.stem, config.widths[0]])
        self.rpe_proj = nn.Linear(1, config.position_channels)
        widths = [w for w, depth in zip(config.widths, config.depths, strict=True) for _ in range(depth)]
        self.blocks = nn.ModuleList(
            Block(config, d, out) for d, out in zip(widths, [*widths[1:], widths[-1]], strict=True)
        )
        self.norm, self.head = nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], config.num_classes)
        self.grid = config.image_size // 16

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_layers(x)
        step = 2 / (self.grid - 1)
        points = torch.linspace(-1 - 2 * step, 1 + 2 * step, self.grid + 4, dtype=x.dtype)
        y, x0 = points[:, None, None, None], points[None, :, None, None]
        distance = ((y - points[None, None, :, None]) ** 2 + (x0 - points[None, None, None, :]) ** 2).sqrt()
        rpe = self.rpe_proj(distance[..., None])
        for block in self.blocks:
            x = block(x, rpe)
        return self.head(self.norm(x).mean(1))
