"""Naive implementation of HEMF from the paper's equations: the baseline that our network is measured against.

Layer norm written out, feature maps (N, C, H, W) with general permutations around each product over channels,
position tables computed in the forward pass. Its parameters have the authors' names, so their state dicts load as
they are (`strict=False`, for the unused ones). Written independently of `hemf_export.networks`: the tests use
it as an oracle too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer norm over C of (N, C, H, W) or (N, H, W, C), written out."""

    def __init__(self, channels: int, channel_axis: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.axis = channel_axis

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(self.axis, keepdim=True)
        variance = (x - mean).pow(2).mean(self.axis, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        shape = [1, 1, 1, 1]
        shape[self.axis] = -1
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


class Conv(nn.Module):
    """Convolution, then BatchNorm and ReLU if asked."""

    def __init__(
        self, cin: int, cout: int, kernel: int, *, bn: bool = False, relu: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=bias)
        if bn:
            self.bn = nn.BatchNorm2d(cout)
        self.has_bn, self.has_relu = bn, relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.has_bn:
            x = self.bn(x)
        return F.relu(x) if self.has_relu else x


class Block(nn.Module):
    """ELF."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)
        self.dwconv = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.pwconv = nn.Linear(c, c)
        self.norm = ChannelNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(self.norm(self.conv(x)))
        y = F.gelu(self.pwconv(y.permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class Depthwise(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 5, padding=2, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class VisualRetention(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(c, c)
        self.k_proj = nn.Linear(c, c)
        self.v_proj = nn.Linear(c, c)
        self.lepe = Depthwise(c)
        self.out_proj = nn.Linear(c, c)
        self.heads = heads

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, decay: Tensor) -> Tensor:
        n, h, w, c = x.shape
        d = c // self.heads
        q, k, v = self.q_proj(x), self.k_proj(x) * d**-0.5, self.v_proj(x)
        lepe = self.lepe(v)
        q, k, v = (t.view(n, h, w, self.heads, d).permute(0, 3, 1, 2, 4) for t in (q, k, v))
        q, k = (t * cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * sin for t in (q, k))
        along_w = (q.transpose(1, 2) @ k.transpose(1, 2).transpose(-1, -2) + distances(w, decay)).softmax(-1)
        v = along_w @ v.transpose(1, 2)  # n h heads w d
        q, k = q.permute(0, 3, 1, 2, 4), k.permute(0, 3, 1, 2, 4)  # n w heads h d
        along_h = (q @ k.transpose(-1, -2) + distances(h, decay)).softmax(-1)
        v = along_h @ v.permute(0, 3, 2, 1, 4)
        return self.out_proj(v.permute(0, 3, 1, 2, 4).flatten(-2) + lepe)


def distances(length: int, decay: Tensor) -> Tensor:
    index = torch.arange(length, device=decay.device)
    return (index[:, None] - index[None, :]).abs() * decay[:, None, None]


class Position(nn.Module):
    angle: Tensor
    decay: Tensor

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("angle", torch.zeros(c // heads))
        self.register_buffer("decay", torch.zeros(heads))

    def forward(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(h * w, device=self.angle.device)
        return tuple(f(index[:, None] * self.angle).reshape(h, w, -1) for f in (torch.sin, torch.cos))  # type: ignore[return-value]


class GlobalBlock(nn.Module):
    """EGF."""

    def __init__(self, c: int, depth: int, heads: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(c, -1)
        self.norm2 = ChannelNorm(c, -1)
        self.RetNetRelPos2d = Position(c, heads)
        self.VRC = nn.ModuleList(VisualRetention(c, heads) for _ in range(depth))
        self.FC = nn.ModuleList(nn.Linear(c, c) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        sin, cos = self.RetNetRelPos2d(x.shape[1], x.shape[2])
        for retention, linear in zip(self.VRC, self.FC, strict=True):
            x = self.norm1(retention(x, sin, cos, self.RetNetRelPos2d.decay) + x)
            x = self.norm2(linear(x) + x)
        return x.permute(0, 3, 1, 2)


class ExternalAttention(nn.Module):
    def __init__(self, c: int, heads: int, slots: int) -> None:
        super().__init__()
        self.mk = nn.Linear(c // heads, slots, bias=False)
        self.mv = nn.Linear(slots, c // heads, bias=False)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).permute(0, 2, 1).reshape(n, h * w, self.heads, c // self.heads).permute(0, 2, 1, 3)
        attention = self.mk(tokens).softmax(-2)
        attention = attention / attention.sum(-1, keepdim=True)
        return self.mv(attention).permute(0, 2, 1, 3).reshape(n, h * w, c).permute(0, 2, 1).reshape(n, c, h, w)


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv1(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)))


class ChannelAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c, c // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(c // 16, c, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1))
        mean, maximum = (self.fc2(F.relu(self.fc1(p))) for p in pooled)
        return torch.sigmoid(mean + maximum)


class Residual(nn.Module):
    """SIRMLP."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_s = Conv(3 * c, c, 1, bn=True)
        self.conv1 = Conv(c, c, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = Conv(c, 4 * c, 1, bias=False)
        self.conv3 = Conv(4 * c, c, 1, bn=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_s(x)
        x = self.bn1(F.gelu(self.conv1(x)) + x)
        return self.conv3(F.gelu(self.conv2(x)))


class Fusion(nn.Module):
    """HEF."""

    def __init__(self, c: int, heads: int, slots: int, previous: bool) -> None:
        super().__init__()
        self.W_l = Conv(c, c, 1, bn=True)
        self.W_g = Conv(c, c, 1, bn=True)
        self.norm_l, self.norm_g = ChannelNorm(c), ChannelNorm(c)
        self.mea_l, self.mea_g = ExternalAttention(c, heads, slots), ExternalAttention(c, heads, slots)
        self.sa_l, self.sa_g = SpatialAttention(), SpatialAttention()
        self.ca_l, self.ca_g = ChannelAttention(c), ChannelAttention(c)
        if previous:
            self.Updim = Conv(c // 2, c, 1, bn=True, relu=True)
            self.norm1, self.W3 = ChannelNorm(3 * c), Conv(3 * c, c, 1, bn=True)
        else:
            self.norm2, self.W = ChannelNorm(2 * c), Conv(2 * c, c, 1, bn=True)
        self.norm3 = ChannelNorm(3 * c)
        self.residual = Residual(c)

    def forward(self, local: Tensor, global_: Tensor, previous: Tensor | None) -> Tensor:
        w_l, w_g = self.W_l(local), self.W_g(global_)
        h_x = None
        if previous is not None:
            h_x = F.avg_pool2d(self.Updim(previous), 2)
            h_y = F.gelu(self.W3(self.norm1(torch.cat([h_x, w_l, w_g], 1))))
        else:
            h_y = F.gelu(self.W(self.norm2(torch.cat([w_l, w_g], 1))))
        mixed = []
        for x, norm, mea, sa, ca in (
            (global_, self.norm_g, self.mea_g, self.sa_g, self.ca_g),
            (local, self.norm_l, self.mea_l, self.sa_l, self.ca_l),
        ):
            n = norm(x)
            m = norm(mea(n) * n)
            m = m * sa(m)
            mixed.append(m * ca(m))
        out: Tensor = self.residual(self.norm3(torch.cat([*mixed, h_y], 1)))
        return out if h_x is None else out + h_x


class NaiveHEMF(nn.Module):
    """Network from images (N, 3, H, W), H and W multiples of 32, to logits (N, classes)."""

    def __init__(
        self, classes: int = 7, width: int = 96, heads: int = 8, elf: int = 4, egf: int = 3, slots: int = 64
    ) -> None:
        super().__init__()
        c = [width * 2**i for i in range(4)]

        def steps() -> nn.ModuleList:
            first = nn.Sequential(nn.Conv2d(3, c[0], 4, 4), ChannelNorm(c[0]))
            rest = (nn.Sequential(ChannelNorm(c[i]), nn.Conv2d(c[i], c[i + 1], 2, 2)) for i in range(3))
            return nn.ModuleList([first, *rest])

        self.downsample_layers, self.downsample_layers2 = steps(), steps()
        self.stages = nn.ModuleList(nn.Sequential(*(Block(ci) for _ in range(elf))) for ci in c)
        self.stages2 = nn.ModuleList(GlobalBlock(ci, egf, heads) for ci in c)
        for i in range(4):
            setattr(self, f"fu{i + 1}", Fusion(c[i], heads, slots, previous=i > 0))
        self.conv_norm = nn.LayerNorm(c[-1], eps=1e-6)
        self.conv_head = nn.Linear(c[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        local = global_ = x
        fused = None
        for i in range(4):
            local = self.stages[i](self.downsample_layers[i](local))
            global_ = self.stages2[i](self.downsample_layers2[i](global_))
            fused = getattr(self, f"fu{i + 1}")(local, global_, fused)
        logits: Tensor = self.conv_head(self.conv_norm(fused.mean((2, 3))))  # type: ignore[union-attr]
        return logits
