"""ConvNeXt as published: feature maps throughout, layer norms of maps written out, layer scale by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.convnext import ConvNeXtConfig


class MapNorm(nn.Module):
    """Layer norm over the second axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normal = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class PlainConvNeXt(nn.Module):
    """ConvNeXt, (N, 3, H, W) → logits."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        widths = [config.width, 2 * config.width, 4 * config.width, 8 * config.width]
        entries: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), MapNorm(widths[0]))]
        for index in range(3):
            entries.append(nn.Sequential(MapNorm(widths[index]), nn.Conv2d(widths[index], widths[index + 1], 2, 2)))
        self.downsample_layers = nn.ModuleList(entries)
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(width) for _ in range(depth)])
            for width, depth in zip(widths, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for entry, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(entry(x))
        return self.head(self.norm(x.mean([-2, -1])))


def build(config: ConvNeXtConfig) -> nn.Module:
    """Build the network of a configuration, with PyTorch's initial weights."""
    return PlainConvNeXt(config)
