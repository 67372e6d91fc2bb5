"""UniFormer as published: maps throughout the convolutional stages, q, k and v by indexing, BatchNorms as they are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.networks.uniformer import UniFormerConfig


class ConvMlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.attn = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = ConvMlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, channels = x.shape
        size = channels // self.heads
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = (query @ key.transpose(-2, -1) * size**-0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(-1, tokens, channels))


class LinearMlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class AttentionBlock(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = LinearMlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        _, channels, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.transpose(1, 2).reshape(-1, channels, height, width)


class Embedding(nn.Module):
    def __init__(self, cin: int, cout: int, patch: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(cout)
        self.proj = nn.Conv2d(cin, cout, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        _, channels, height, width = x.shape
        x = self.norm(x.flatten(2).transpose(1, 2))
        return x.reshape(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()


class PlainUniFormer(nn.Module):
    """UniFormer, (N, 3, H, W) → logits."""

    def __init__(self, config: UniFormerConfig) -> None:
        super().__init__()
        inputs = (3, *config.widths)
        for index, width in enumerate(config.widths):
            embedding = Embedding(inputs[index], width, 2 if index else 4)
            setattr(self, f"patch_embed{index + 1}", embedding)
        for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            heads = width // config.head_channels
            blocks = [ConvBlock(width) if index < 2 else AttentionBlock(width, heads) for _ in range(depth)]
            setattr(self, f"blocks{index + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(config.widths[-1])
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in ("1", "2", "3", "4"):
            x = getattr(self, f"blocks{stage}")(getattr(self, f"patch_embed{stage}")(x))
        return self.head(self.norm(x).flatten(2).mean(-1))


def build(config: UniFormerConfig) -> nn.Module:
    """Build the network of a configuration, with PyTorch's initial weights."""
    return PlainUniFormer(config)
