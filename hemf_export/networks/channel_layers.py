"""Layers over the channels of each pixel that several families have, with the shapes of their authors' tensors.

Published code has 1×1 convolutions on maps (N, C, H, W). Here the same weights work on rows (N*H*W, C), see
`networks.layout`, so that an exported graph has plain Gemms. Strided convolutions stay convolutions: TensorRT-RTX
compiles those to fewer kernels than patches and a product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of maps: (N, C, H, W) → (N, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution that takes and returns rows: (N*H*W, in) → (N*H*W, out); its weight is (out, in, 1, 1)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    """A k×k convolution with stride k, then layer norm with PyTorch's ε, 1e-5: (N, in, H, W) → (N, out, H/k, W/k).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        patch: k.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, patch, stride=patch)
        self.norm = MapNorm(out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.proj(maps))


def scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Express a BatchNorm in evaluation as scale·x + shift, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def fold_into_next(norm: nn.BatchNorm1d | nn.BatchNorm2d, product: nn.Module) -> None:
    """Make `product`, a Linear or a 1×1 convolution, compute product(norm(x)), in place; computed in float64."""
    assert isinstance(product, nn.Linear | nn.Conv2d)
    scale, shift = scale_and_shift(norm)
    weight = product.weight.flatten(1).double()
    bias = weight @ shift + (0.0 if product.bias is None else product.bias.double())
    product.bias = nn.Parameter(bias.to(product.weight.dtype))
    product.weight.copy_((weight * scale).reshape(product.weight.shape))
