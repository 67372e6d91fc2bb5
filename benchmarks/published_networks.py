"""Networks with published latencies on a T4, in plain torch with random weights, to check the model of engine times.

Written from their papers, with only what determines the kernels: no dropout, no initialization.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 1000


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(cin, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, cout, 1, bias=False), nn.BatchNorm2d(cout),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 with the stride in the 3×3 convolution ("v1.5"); He et al. 2016."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    cin = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            layers.append(Bottleneck(cin, width, stride if index == 0 else 1))
            cin = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, CLASSES))


class InvertedResidual(nn.Module):
    """1×1 convolution to more channels, depthwise 3×3, 1×1 back."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = cin * expansion
        first = [nn.Conv2d(cin, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *first,
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, cout, 1, bias=False), nn.BatchNorm2d(cout),
        )  # fmt: skip
        self.around = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.around else self.body(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2; Sandler et al. 2018, table 2."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    cin = 32
    rows = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    for expansion, cout, depth, stride in rows:
        for index in range(depth):
            layers.append(InvertedResidual(cin, cout, stride if index == 0 else 1, expansion))
            cin = cout
    head = [nn.Conv2d(cin, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, *head, nn.Flatten(), nn.Linear(1280, CLASSES))


class Attention(nn.Module):
    """Multi-head attention over (B, L, C), with an optional additive bias."""

    def __init__(self, channels: int, heads: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.register_buffer("bias", bias)
        self.mask: Tensor | None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, channels = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        if mask is not None:
            windows = mask.shape[0]
            scores = (scores.reshape(-1, windows, self.heads, length, length) + mask[:, None]).flatten(0, 1)
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, channels))


class Block(nn.Module):
    """Pre-norm transformer block, in windows if `window` is given, shifted if `shift` is."""

    def __init__(self, channels: int, heads: int, size: int = 0, window: int = 0, shift: int = 0) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(channels), nn.LayerNorm(channels)
        bias = torch.randn(heads, window**2, window**2) if window else None
        self.attention = Attention(channels, heads, bias)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.size, self.window, self.shift = size, window, shift
        self.register_buffer("mask", _shifted_mask(size, window, shift) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.window:
            x = x + self.attention(self.first(x))
            return x + self.mlp(self.second(x))
        batch, _, channels = x.shape
        count, window = self.size // self.window, self.window
        grid = self.first(x).reshape(batch, self.size, self.size, channels)
        if self.shift:
            grid = torch.roll(grid, (-self.shift, -self.shift), (1, 2))
        tiles = grid.reshape(batch, count, window, count, window, channels).transpose(2, 3)
        mixed = self.attention(tiles.reshape(-1, window**2, channels), self.mask)
        grid = mixed.reshape(batch, count, count, window, window, channels).transpose(2, 3)
        grid = grid.reshape(batch, self.size, self.size, channels)
        if self.shift:
            grid = torch.roll(grid, (self.shift, self.shift), (1, 2))
        x = x + grid.reshape(batch, -1, channels)
        return x + self.mlp(self.second(x))


class Patches(nn.Module):
    """Patch embedding of an image to (B, L, C), with an optional class token and positions."""

    def __init__(self, channels: int, patch: int, positions: int = 0) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, channels)) if positions else None
        self.positions = nn.Parameter(torch.randn(1, positions, channels)) if positions else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x).flatten(2).transpose(1, 2)
        if self.token is not None and self.positions is not None:
            x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        return x


class Take(nn.Module):
    """Classifier on the first token, or on the mean of all."""

    def __init__(self, channels: int, first: bool) -> None:
        super().__init__()
        self.norm, self.head, self.first = nn.LayerNorm(channels), nn.Linear(channels, CLASSES), first

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.head(x[:, 0] if self.first else x.mean(1))


class Merge(nn.Module):
    """Patch merging: 2×2 neighbours to one with twice the channels."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm, self.reduction, self.size = (
            nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels, bias=False), size,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        half = self.size // 2
        x = x.reshape(batch, half, 2, half, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, half * half, 4 * channels)))


def vit_b16() -> nn.Module:
    """ViT-B/16 at 224 pixels; Dosovitskiy et al. 2021."""
    return nn.Sequential(Patches(768, 16, 197), *(Block(768, 12) for _ in range(12)), Take(768, first=True))


def swin_t() -> nn.Module:
    """Swin-T at 224 pixels with windows of 7; Liu et al. 2021."""
    layers: list[nn.Module] = [Patches(96, 4), nn.LayerNorm(96)]
    channels, size = 96, 56
    for stage, depth in enumerate((2, 2, 6, 2)):
        for index in range(depth):
            layers.append(Block(channels, channels // 32, size, 7, 3 if index % 2 and size > 7 else 0))
        if stage < 3:
            layers.append(Merge(channels, size))
            channels, size = 2 * channels, size // 2
    return nn.Sequential(*layers, Take(channels, first=False))


def _shifted_mask(size: int, window: int, shift: int) -> Tensor:
    """Return a mask (windows, tokens, tokens), very negative between tokens not adjacent before the shift."""
    line = torch.zeros(size)
    line[-window:-shift], line[-shift:] = 1, 2
    region = (3 * line[:, None] + line[None]).reshape(size // window, window, size // window, window)
    region = region.transpose(1, 2).reshape(-1, window**2)
    return (region[:, None] != region[:, :, None]) * -100.0
