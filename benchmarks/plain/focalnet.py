"""FocalNet as published: tokens between maps, one product for query, context and gates, gates broadcast one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.focalnet import FocalNetConfig


class Modulation(nn.Module):
    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.f = nn.Linear(channels, 2 * channels + levels + 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Linear(channels, channels)
        self.focal_layers = nn.ModuleList()
        for level in range(levels):
            side = 3 + 2 * level
            convolution = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=False)
            self.focal_layers.append(nn.Sequential(convolution, nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C)
        channels = x.shape[-1]
        x = self.f(x).permute(0, 3, 1, 2)
        query, context, gates = torch.split(x, (channels, channels, self.levels + 1), 1)
        total = 0
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            total = total + context * gates[:, level : level + 1]
        everywhere = F.gelu(context.mean(2, keepdim=True).mean(3, keepdim=True))
        total = total + everywhere * gates[:, self.levels :]
        return self.proj((query * self.h(total)).permute(0, 2, 3, 1))


class Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.modulation = Modulation(channels, levels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:  # (N, HW, C)
        y = self.norm1(x).reshape(-1, height, width, x.shape[-1])
        x = x + self.modulation(y).reshape(-1, height * width, x.shape[-1])
        return x + self.mlp(self.norm2(x))


class Embedding(nn.Module):
    def __init__(self, cin: int, cout: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(cin, cout, patch, patch)
        self.norm = nn.LayerNorm(cout)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.proj(maps).flatten(2).transpose(1, 2))


class Stage(nn.Module):
    def __init__(self, channels: int, depth: int, levels: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(channels, levels) for _ in range(depth)])
        self.downsample = None if last else Embedding(channels, 2 * channels, 2)

    def forward(self, x: Tensor, side: int) -> Tensor:
        for block in self.blocks:
            x = block(x, side, side)
        if self.downsample is not None:
            x = self.downsample(x.transpose(1, 2).reshape(-1, x.shape[-1], side, side))
        return x


class PlainFocalNet(nn.Module):
    """FocalNet, (N, 3, side, side) → logits."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.side = config.image_size // 4
        self.patch_embed = Embedding(3, config.width, 4)
        self.layers = nn.ModuleList(
            [
                Stage(config.width << index, depth, config.levels, index == 3)
                for index, depth in enumerate(config.depths)
            ]
        )
        self.norm = nn.LayerNorm(config.width * 8)
        self.head = nn.Linear(config.width * 8, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for index, layer in enumerate(self.layers):
            x = layer(x, self.side >> index)
        return self.head(self.norm(x).mean(1))


def build(config: FocalNetConfig) -> nn.Module:
    """Build the network of a configuration, with PyTorch's initial weights."""
    return PlainFocalNet(config)
