"""ELF, the block of the local branch (equations 1 and 2), and the strided projections of both branches."""

from __future__ import annotations

from torch import Tensor, nn

from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import normalize, to_maps, to_rows

NORM_EPSILON = 1e-6  # of every layer norm in the network


def layer_norm(channels: int) -> nn.LayerNorm:
    """Build a layer norm over the channels of a row."""
    return nn.LayerNorm(channels, eps=NORM_EPSILON)


class PatchProjection(nn.Module):
    """A k×k convolution with stride k, as one product over rows of non-overlapping patches.

    The weight is that of the convolution, (out, in, k, k), permuted to (out, k, k, in) and flattened.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        patch: k.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Linear(patch * patch * in_channels, out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/k, W/k)."""
        _, channels, height, width = maps.shape
        patch, rows, columns = self.patch, height // self.patch, width // self.patch
        patches = maps.permute(0, 2, 3, 1).reshape(-1, rows, patch, columns, patch * channels).permute(0, 1, 3, 2, 4)
        return to_maps(self.projection(patches.reshape(-1, patch * patch * channels)), rows, columns)


class Stem(nn.Module):
    """4×4 convolution with stride 4, then layer norm: (N, 3, H, W) → (N, C, H/4, W/4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.patches = PatchProjection(in_channels, out_channels, 4)
        self.norm = layer_norm(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.norm, self.patches(images))


class Downsample(nn.Module):
    """Layer norm, then 2×2 convolution with stride 2: (N, C, H, W) → (N, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = layer_norm(in_channels)
        self.patches = PatchProjection(in_channels, out_channels, 2)

    def forward(self, maps: Tensor) -> Tensor:
        projected: Tensor = self.patches(normalize(self.norm, maps))
        return projected


class ELF(ResidualBlock):
    """Efficient local feature block: x + GELU(1×1(depthwise 3×3(LN(3×3(x))))). Equations (1) and (2).

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = layer_norm(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Linear(channels, channels)
        self.activation = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        inner = self.depthwise(normalize(self.norm, self.convolution(maps)))
        inner = self.activation(self.pointwise(to_rows(inner)))
        return to_maps(to_rows(maps) + self.branch(inner, len(maps)), *maps.shape[2:])
