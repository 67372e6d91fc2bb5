"""SIRMLP, the fusion block's inverted residual MLP (equations 17 to 19), and IRMLP, which it is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from hemf_export.networks.layout import to_maps, to_rows


class SIRMLP(nn.Module):
    """3C channels in, C out: squeeze first, then a dense 3×3 convolution on C channels only.

    s = BN(1×1 s); t = BN(GELU(3×3 s) + s); out = BN(1×1 GELU(1×1 t)). The paper's equation (18) says depthwise; its
    code and Table 3 have the dense convolution.

    Args:
        channels: C.
        expansion: of the hidden layer, in C.
    """

    def __init__(self, channels: int, *, expansion: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(3 * channels, channels)
        self.squeeze_norm = nn.BatchNorm1d(channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convolution_norm = nn.BatchNorm1d(channels)
        self.expand = nn.Linear(channels, expansion * channels, bias=False)
        self.reduce = nn.Linear(expansion * channels, channels, bias=False)
        self.reduce_norm = nn.BatchNorm1d(channels)
        self.activation = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 3C, H, W) → (N, C, H, W)."""
        height, width = maps.shape[2:]
        squeezed = self.squeeze_norm(self.squeeze(to_rows(maps)))
        mixed = to_rows(self.activation(self.convolution(to_maps(squeezed, height, width))))
        mixed = self.convolution_norm(mixed + squeezed)
        out = self.reduce_norm(self.reduce(self.activation(self.expand(mixed))))
        return to_maps(out, height, width)


class IRMLP(nn.Module):
    """IRMLP: SIRMLP without the squeeze, every product on 3C channels, as in Table 3. Only `mlp="irmlp"` has it.

    BN(3×3 GELU + input), then 1×1 to 12C, GELU, 1×1 to C, BN. (N, 3C, H, W) → (N, C, H, W).
    """

    def __init__(self, channels: int, *, expansion: int = 4) -> None:
        super().__init__()
        wide = 3 * channels
        self.convolution = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.convolution_norm = nn.BatchNorm1d(wide)
        self.expand = nn.Linear(wide, expansion * wide, bias=False)
        self.reduce = nn.Linear(expansion * wide, channels, bias=False)
        self.reduce_norm = nn.BatchNorm1d(channels)
        self.activation = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        mixed = self.convolution_norm(to_rows(self.activation(self.convolution(maps)) + maps))
        out = self.reduce_norm(self.reduce(self.activation(self.expand(mixed))))
        return to_maps(out, height, width)
