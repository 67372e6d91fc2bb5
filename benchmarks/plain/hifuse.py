"""HiFuse as published: layer norms of maps written out, windows by six-dimensional permutations, masks made each time.

The one thing that is not as published: windows are put together again with the batch left open, as the published way
gives wrong logits at every batch size but the exported one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.hifuse import HiFuseConfig


class WrittenNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Local(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        return x + F.gelu(self.pwconv(self.norm(y))).permute(0, 3, 1, 2)


def to_windows(x: Tensor, window: int) -> Tensor:
    """(N, H, W, C) → (windows, window, window, C)."""
    _, height, width, channels = x.shape
    x = x.view(-1, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window, window, channels)


def from_windows(windows: Tensor, window: int, side: int) -> Tensor:
    channels = windows.shape[-1]
    x = windows.view(-1, side // window, side // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side, side, channels)


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.size = heads, window, channels // heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        places = [(row, column) for row in range(window) for column in range(window)]
        index = [[(a + window - 1 - c) * (2 * window - 1) + b + window - 1 - d for c, d in places] for a, b in places]
        self.register_buffer("relative_position_index", torch.tensor(index), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        _, pixels, channels = x.shape
        qkv = self.qkv(x).reshape(-1, pixels, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * self.size**-0.5, qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(pixels, pixels, self.heads).permute(2, 0, 1)
        weights = query @ key.transpose(-2, -1) + bias[None]
        if mask is not None:
            count = len(mask)
            weights = weights.view(-1, count, self.heads, pixels, pixels) + mask[None, :, None]
            weights = weights.view(-1, self.heads, pixels, pixels)
        mixed = weights.softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(-1, pixels, channels))


class Global(nn.Module):
    def __init__(self, channels: int, heads: int, window: int, shift: int, side: int) -> None:
        super().__init__()
        self.window, self.shift, self.side = window, shift, side
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, window)
        self.fc1 = nn.Linear(channels, channels)

    def before(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H*W, C) → (N, H*W, C)."""
        _, tokens, channels = x.shape
        side, window, shift = self.side, self.window, self.shift
        y = self.before(x).view(-1, side, side, channels)
        if shift:
            y = torch.roll(y, (-shift, -shift), (1, 2))
        windows = to_windows(y, window).view(-1, window * window, channels)
        windows = self.attn(windows, self.mask(x) if shift else None)
        y = from_windows(windows.view(-1, window, window, channels), window, side)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        return x + F.gelu(self.fc1(y.view(-1, tokens, channels)))

    def mask(self, x: Tensor) -> Tensor:
        regions = torch.zeros(1, self.side, self.side, 1, device=x.device)
        parts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((a, b) for a in parts for b in parts):
            regions[:, rows, columns, :] = number
        flat = to_windows(regions, self.window).view(-1, self.window * self.window)
        difference = flat.unsqueeze(1) - flat.unsqueeze(2)
        return difference.masked_fill(difference != 0, -100.0)


class Merging(nn.Module):
    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[-1]
        x = x.view(-1, self.side, self.side, channels)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x.view(-1, self.side**2 // 4, 4 * channels)))


class Stage(nn.Module):
    def __init__(self, block: type[Global], config: HiFuseConfig, index: int) -> None:
        super().__init__()
        channels, heads, side = (
            each[index] for each in (config.stage_channels, config.stage_heads, config.stage_sides)
        )
        self.blocks = nn.ModuleList(
            block(channels, heads, config.window, config.window // 2 if number % 2 else 0, side)
            for number in range(config.depths[index])
        )
        self.downsample = Merging(channels // 2, 2 * side) if index else None

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class Conv(nn.Module):
    def __init__(self, cin: int, cout: int, size: int = 1, *, bn: bool = False, relu: bool = False, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, size, padding=size // 2, bias=bias)
        self.bn = nn.BatchNorm2d(cout) if bn else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x) if self.relu else x


class Inverted(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv1 = Conv(cin, cin, 3, bias=False)
        self.conv2 = Conv(cin, 4 * cin, bias=False)
        self.conv3 = Conv(4 * cin, cout, bias=False, bn=True)
        self.bn1 = nn.BatchNorm2d(cin)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv1(x)) + x
        return self.conv3(F.gelu(self.conv2(self.bn1(x))))


class Fusion(nn.Module):
    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        squeezed = max(4, channels // 16)
        self.se = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU(), nn.Conv2d(squeezed, channels, 1, bias=False)
        )
        self.spatial = Conv(2, 1, 7, bn=True, bias=False)
        self.W_l = Conv(channels, channels, bn=True)
        self.W_g = Conv(channels, channels, bn=True)
        self.norm3 = WrittenNorm(3 * channels)
        self.residual = Inverted(3 * channels, channels)
        if first:
            self.norm2 = WrittenNorm(2 * channels)
            self.W = Conv(2 * channels, channels, bn=True)
        else:
            self.Updim = Conv(channels // 2, channels, bn=True, relu=True)
            self.norm1 = WrittenNorm(3 * channels)
            self.W3 = Conv(3 * channels, channels, bn=True)

    def forward(self, local: Tensor, global_: Tensor, fused: Tensor | None) -> Tensor:
        a, b = self.W_l(local), self.W_g(global_)
        if fused is None:
            shortcut: Tensor | float = 0.0
            joined = self.W(self.norm2(torch.cat([a, b], 1)))
        else:
            shortcut = F.avg_pool2d(self.Updim(fused), 2, 2)
            joined = self.W3(self.norm1(torch.cat([shortcut, a, b], 1)))
        joined = F.gelu(joined)
        pooled = torch.cat([local.max(1, keepdim=True)[0], local.mean(1, keepdim=True)], 1)
        local = torch.sigmoid(self.spatial(pooled)) * local
        channel = self.se(F.adaptive_max_pool2d(global_, 1)) + self.se(F.adaptive_avg_pool2d(global_, 1))
        global_ = torch.sigmoid(channel) * global_
        return shortcut + self.residual(self.norm3(torch.cat([global_, local, joined], 1)))


class Embedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


def local_steps(channels: tuple[int, ...]) -> nn.ModuleList:
    steps = [nn.Sequential(nn.Conv2d(3, channels[0], 4, 4), WrittenNorm(channels[0]))]
    for wide in channels[1:]:
        steps.append(nn.Sequential(WrittenNorm(wide // 2), nn.Conv2d(wide // 2, wide, 2, 2)))
    return nn.ModuleList(steps)


class PlainHiFuse(nn.Module):
    """HiFuse, (N, 3, H, W) → logits."""

    def __init__(self, config: HiFuseConfig) -> None:
        super().__init__()
        channels = config.stage_channels
        self.channels, self.sides = channels, config.stage_sides
        self.downsample_layers = local_steps(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Local(wide) for _ in range(depth)))
            for wide, depth in zip(channels, config.depths, strict=True)
        )
        self.conv_norm = nn.LayerNorm(channels[-1], eps=1e-6)
        self.conv_head = nn.Linear(channels[-1], config.num_classes)
        self.patch_embed = Embedding(channels[0])
        for index in range(4):
            setattr(self, f"layers{index + 1}", Stage(Global, config, index))
        for index in range(4):
            setattr(self, f"fu{index + 1}", Fusion(channels[index], first=index == 0))

    def forward(self, images: Tensor) -> Tensor:
        local, tokens, fused = images, self.patch_embed(images), None
        for index, (channels, side) in enumerate(zip(self.channels, self.sides, strict=True)):
            local = self.stages[index](self.downsample_layers[index](local))
            tokens = getattr(self, f"layers{index + 1}")(tokens)
            global_ = tokens.transpose(1, 2).reshape(-1, channels, side, side)
            fused = getattr(self, f"fu{index + 1}")(local, global_, fused)
        return self.conv_head(self.conv_norm(fused.mean([-2, -1])))


def build(config: HiFuseConfig) -> nn.Module:
    """Build the network of a configuration, with PyTorch's initial weights."""
    return PlainHiFuse(config)
