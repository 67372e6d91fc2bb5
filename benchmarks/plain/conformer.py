"""Conformer as its authors write it (Peng et al. 2021, arXiv:2105.03889), in plain PyTorch.

An independent transcription with their names: the tests' oracle, and the baseline that our network is measured against.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.conformer import ConformerConfig


def build(config: ConformerConfig) -> nn.Module:
    """Build the network, with PyTorch's initial weights."""
    return Conformer(config)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-6)


class Conv(nn.Module):
    """Bottleneck block; gives its output and the map before its last convolution."""

    def __init__(self, cin: int, cout: int, stride: int, *, residual: bool) -> None:
        super().__init__()
        m = cout // 4
        self.conv1, self.bn1 = nn.Conv2d(cin, m, 1, bias=False), norm(m)
        self.conv2, self.bn2 = nn.Conv2d(m, m, 3, stride, 1, bias=False), norm(m)
        self.conv3, self.bn3 = nn.Conv2d(m, cout, 1, bias=False), norm(cout)
        self.residual = residual
        if residual:
            self.residual_conv, self.residual_bn = nn.Conv2d(cin, cout, 1, stride, bias=False), norm(cout)

    def forward(self, x: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = F.relu(self.bn1(self.conv1(x)))
        if t is not None:
            y = y + t
        x2 = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(x2))
        if self.residual:
            x = self.residual_bn(self.residual_conv(x))
        return F.relu(y + x), x2


class Attention(nn.Module):
    """Attention with one product for q, k and v."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        return self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, hidden), nn.Linear(hidden, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Transformer block."""

    def __init__(self, c: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(c, eps=1e-6), Attention(c, heads)
        self.norm2, self.mlp = nn.LayerNorm(c, eps=1e-6), Mlp(c, ratio * c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Down(nn.Module):
    """Map to tokens, with the class token in front."""

    def __init__(self, cin: int, cout: int, d: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(cin, cout, 1)
        self.pool = nn.AvgPool2d(d, d)
        self.ln = nn.LayerNorm(cout, eps=1e-6)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.pool(self.conv_project(x)).flatten(2).transpose(1, 2)
        return torch.cat([t[:, 0][:, None, :], F.gelu(self.ln(x))], dim=1)


class Up(nn.Module):
    """Tokens to a map."""

    def __init__(self, cin: int, cout: int, d: int) -> None:
        super().__init__()
        self.d = d
        self.conv_project, self.bn = nn.Conv2d(cin, cout, 1), norm(cout)

    def forward(self, t: Tensor, side: int) -> Tensor:
        b, _, c = t.shape
        x = t[:, 1:].transpose(1, 2).reshape(b, c, side, side)
        return F.interpolate(F.relu(self.bn(self.conv_project(x))), size=(side * self.d, side * self.d))


class Both(nn.Module):
    """Unit of both branches."""

    def __init__(self, config: ConformerConfig, cin: int, cout: int, d: int, *, last: bool) -> None:
        super().__init__()
        e = config.embedding
        self.cnn_block = Conv(cin, cout, 1 if cin == cout else 2, residual=cin != cout)
        self.squeeze_block, self.expand_block = Down(cout // 4, e, d), Up(e, cout // 4, d)
        self.trans_block = Block(e, config.heads, config.mlp_ratio)
        self.fusion_block = Conv(cout, cout, 2 if last else 1, residual=last)
        self.d = d

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, x2 = self.cnn_block(x)
        t = self.trans_block(self.squeeze_block(x2, t) + t)
        x, _ = self.fusion_block(x, self.expand_block(t, x.shape[2] // self.d))
        return x, t


class Conformer(nn.Module):
    """Both branches; in evaluation the sum of their logits, in training both."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        e, w = config.embedding, config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, e))
        self.trans_norm = nn.LayerNorm(e)
        self.trans_cls_head, self.conv_cls_head = nn.Linear(e, config.num_classes), nn.Linear(4 * w, config.num_classes)
        self.conv1, self.bn1 = nn.Conv2d(3, config.stem, 7, 2, 3, bias=False), nn.BatchNorm2d(config.stem)
        self.conv_1 = Conv(config.stem, w, 1, residual=True)
        self.trans_patch_conv = nn.Conv2d(config.stem, e, 4, 4)
        self.trans_1 = Block(e, config.heads, config.mlp_ratio)
        widths = [w * 2**stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
        for i in range(1, len(widths)):
            unit = Both(config, widths[i - 1], widths[i], 4 * w // widths[i], last=i + 1 == len(widths))
            setattr(self, f"conv_trans_{i + 1}", unit)
        self.count = len(widths)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x0 = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x, _ = self.conv_1(x0)
        t = self.trans_patch_conv(x0).flatten(2).transpose(1, 2)
        t = self.trans_1(torch.cat([self.cls_token.expand(t.shape[0], -1, -1), t], dim=1))
        for i in range(2, self.count + 1):
            x, t = getattr(self, f"conv_trans_{i}")(x, t)
        conv = self.conv_cls_head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        trans = self.trans_cls_head(self.trans_norm(t)[:, 0])
        return (conv, trans) if self.training else conv + trans
