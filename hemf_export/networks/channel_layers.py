"""Layers over the channels of each pixel that several families have, with the shapes of their authors' tensors.

Published code has 1×1 convolutions on maps (N, C, H, W). Here the same weights work on rows (N*H*W, C), see
`networks.layout`, so that an exported graph has plain Gemms. Strided convolutions stay convolutions: TensorRT-RTX
compiles those to fewer kernels than patches and a product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LINEAR_STD = 0.02  # of the initial weights of Linears


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


class Mlp(nn.Module):
    """Two products over channels with GELU between them: Linears on rows or tokens (…, C), or 1×1 convolutions of maps.

    Args:
        first: from the input's channels to the hidden ones.
        second: from the hidden channels to the output's.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1 = first
        self.fc2 = second

    def forward(self, values: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(values)))


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


def initialize_linears(model: nn.Module) -> None:
    """Set the weights of all Linears in place: truncated normal (0.02, cut at ±2), biases 0; the rest is PyTorch's."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=LINEAR_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def fold_into_next(norm: nn.BatchNorm1d | nn.BatchNorm2d, product: nn.Module) -> None:
    """Make `product`, a Linear or a 1×1 convolution, compute product(norm(x)), in place; computed in float64."""
    assert isinstance(product, nn.Linear | nn.Conv2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = product.weight.flatten(1).double()
    bias = weight @ shift + (0.0 if product.bias is None else product.bias.double())
    product.bias = nn.Parameter(bias.to(product.weight.dtype))
    product.weight.copy_((weight * scale).reshape(product.weight.shape))
