"""CAME as HEMF's authors have it, with HiFuse's plain parts: see `benchmarks.plain.hifuse`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain.hifuse import Conv, Embedding, Global, Inverted, Stage, WrittenNorm, local_steps
from hemf_export.networks.came import CameConfig


class Local(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.pwconv = nn.Linear(channels, channels)
        self.norm = WrittenNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv(self.norm(self.dwconv(x))))
        return x + self.pwconv(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scrambled(Global):
    """HiFuse's block, but what attention takes is convolved as if (H*W, C) were (C, H, W)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, side: int) -> None:
        super().__init__(channels, heads, window, shift, side)
        del self.norm1
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.ln = WrittenNorm(channels)

    def before(self, x: Tensor) -> Tensor:
        _, tokens, channels = x.shape
        y = self.ln(self.conv(x.contiguous().view(-1, channels, self.side, self.side)))
        return y.contiguous().view(-1, tokens, channels)


class External(nn.Module):
    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)
        self.mk = nn.Linear(channels, slots, bias=False)
        self.mv = nn.Linear(slots, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        weights = self.mk(self.ln(tokens)).softmax(1)
        weights = weights / weights.sum(2, keepdim=True)
        return (tokens + self.mv(weights)).transpose(1, 2).reshape(-1, channels, height, width)


class Spatial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.conv1(pooled))


class Channel(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(4, channels // 8), 1, bias=False)
        self.fc2 = nn.Conv2d(max(4, channels // 8), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        largest = self.fc2(F.relu(self.fc1(F.adaptive_max_pool2d(x, 1))))
        return x * torch.sigmoid(mean + largest)


class Fusion(nn.Module):
    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        for part in ("l", "g", "ea"):
            setattr(self, f"W_{part}", Conv(channels, channels, bn=True))
            setattr(self, f"sa_{part}", Spatial())
            setattr(self, f"ca_{part}", Channel(channels))
        if first:
            self.norm_all_no_pre = WrittenNorm(3 * channels)
            self.dowm_all_no_pre = Conv(3 * channels, channels, bn=True)
        else:
            self.W_pre = Conv(channels // 2, channels, bn=True, relu=True)
            self.norm_all = WrittenNorm(4 * channels)
            self.dowm_all = Conv(4 * channels, channels, bn=True)
        self.norm_all_end = WrittenNorm(4 * channels)
        self.irmlp = Inverted(4 * channels, channels)

    def forward(self, local: Tensor, global_: Tensor, external: Tensor, fused: Tensor | None) -> Tensor:
        parts = [self.W_l(local), self.W_g(global_), self.W_ea(external)]
        if fused is None:
            shortcut: Tensor | float = 0.0
            joined = self.dowm_all_no_pre(self.norm_all_no_pre(torch.cat(parts, 1)))
        else:
            shortcut = F.avg_pool2d(self.W_pre(fused), 2, 2)
            joined = self.dowm_all(self.norm_all(torch.cat([*parts, shortcut], 1)))
        local = self.ca_l(self.sa_l(local))
        global_ = self.ca_g(self.sa_g(global_))
        external = self.ca_ea(self.sa_ea(external))
        return shortcut + self.irmlp(self.norm_all_end(torch.cat([local, global_, external, F.gelu(joined)], 1)))


class PlainCAME(nn.Module):
    """CAME, (N, 3, H, W) → logits."""

    def __init__(self, config: CameConfig) -> None:
        super().__init__()
        channels = config.stage_channels
        self.channels, self.sides = channels, config.stage_sides
        self.downsample_layers = local_steps(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Local(wide) for _ in range(depth)))
            for wide, depth in zip(channels, config.depths, strict=True)
        )
        self.patch_embed = Embedding(channels[0])
        self.basic_layers = nn.ModuleList(Stage(Scrambled, config, index) for index in range(4))
        self.conv_norm = nn.LayerNorm(channels[-1], eps=1e-6)
        self.conv_head = nn.Linear(channels[-1], config.num_classes)
        steps = [nn.Conv2d(3, channels[0], 4, 4)] + [nn.Conv2d(wide // 2, wide, 2, 2) for wide in channels[1:]]
        self.ea = nn.ModuleList(
            nn.Sequential(step, External(wide, config.memory_slots)) for step, wide in zip(steps, channels, strict=True)
        )
        for index in range(4):
            setattr(self, f"fu{index + 1}", Fusion(channels[index], first=index == 0))

    def forward(self, images: Tensor) -> Tensor:
        local, tokens, external, fused = images, self.patch_embed(images), images, None
        for index, (channels, side) in enumerate(zip(self.channels, self.sides, strict=True)):
            local = self.stages[index](self.downsample_layers[index](local))
            tokens = self.basic_layers[index](tokens)
            external = self.ea[index](external)
            global_ = tokens.transpose(1, 2).reshape(-1, channels, side, side)
            fused = getattr(self, f"fu{index + 1}")(local, global_, external, fused)
        return self.conv_head(self.conv_norm(fused.mean([-2, -1])))


def build(config: CameConfig) -> nn.Module:
    """Build the network of a configuration, with PyTorch's initial weights."""
    return PlainCAME(config)
