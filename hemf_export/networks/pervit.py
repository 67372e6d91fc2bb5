"""PerViT, the Peripheral Vision Transformer: attention whose weights depend on the distance of two tokens too.

Min et al. 2022, "Peripheral Vision Transformer", arXiv:2206.06801. Names of modules are those of the authors'
checkpoints.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import Mlp, initialize_linears
from hemf_export.networks.configuration import LARGEST_WEIGHTS, NetworkConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.network import Family, Layout, Network, in_float32

PATCH = 16  # pixels of a token's side
IMAGE_RANGE = (32, 512)  # of the image size: from 2 tokens a side to position weights of 50 MB a block
NORM_EPS = 1e-6  # of layer norms; BatchNorms and GroupNorms have PyTorch's 1e-5
BORDER = 2  # positions around the grid, which the two convolutions of the position weights use up
ALIGNMENT = 8  # channels: kernels of fused attention need a multiple of it in a head
POSITION_WEIGHT = 0.02  # initial weight of the position weights' convolutions; negative for the distances
BIAS_RANGE, SCALE_RANGE = (-5.0, 4.0), (3.0, 0.01)  # initial values of their last norm, over the blocks
LARGEST_POSITIONS = 200_000_000  # position weights of all blocks, which folding keeps
LIMITS = {"stem": 1024, "widths": 2048, "depths": 24, "heads": 64, "mlp_ratio": 8, "position_channels": 256}


@dataclass(frozen=True)
class PerVitConfig(NetworkConfig):
    """Everything that determines the tensors of a PerViT.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels, a multiple of 16 from 32 to 512. The tensors don't depend
            on it, but the position weights do.
        stem: channels after the first three of the four convolutions.
        widths: channels of a token in each group of blocks, multiples of `heads`.
        depths: blocks of each group.
        heads: heads of attention.
        mlp_ratio: hidden channels of an MLP, in multiples of a token's.
        position_channels: channels that a distance is mapped to.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = "pervit"
    STRIDE: ClassVar[int] = PATCH

    stem: tuple[int, ...] = (64, 192, 256)
    widths: tuple[int, ...] = (312, 468, 540, 684)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: int = 12
    mlp_ratio: int = 4
    position_channels: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in LIMITS.items():
            self.require_positive(name, limit)
        for name, count in (("stem", 3), ("widths", 4), ("depths", 4)):
            self.require_numbers(name, count)
        for width in self.widths:
            if width % self.heads:
                raise BadInputError(f"A width of {width} doesn't split into {self.heads} heads.")
        smallest, largest = IMAGE_RANGE
        if not smallest <= self.image_size <= largest:
            raise BadInputError(f"{self.name} takes images of {smallest} to {largest} pixels, not {self.image_size}.")
        squares = sum(width**2 * depth for width, depth in zip(self.widths, self.depths, strict=True))
        self.require_at_most(LARGEST_WEIGHTS, (4 + 2 * self.mlp_ratio) * squares, "weights")
        self.require_at_most(LARGEST_POSITIONS, self.heads * self.grid**4 * sum(self.depths), "position weights")

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.image_size // PATCH

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Channels of each block's input and output."""
        widths = [width for width, depth in zip(self.widths, self.depths, strict=True) for _ in range(depth)]
        return tuple(itertools.pairwise([*widths, widths[-1]]))


class Stem(nn.Module):
    """Image → tokens: four 3×3 convolutions of stride 2 with BatchNorm and ReLU, and a 1×1 convolution.

    Args:
        channels: after each of the four convolutions.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        steps = itertools.pairwise((3, *channels))
        self.conv_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after))
            for before, after in steps
        )
        self.conv1x1 = nn.Conv2d(channels[-1], channels[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, H/16 · W/16, C), row by row."""
        maps = images
        for layer in self.conv_layers:
            maps = F.relu(layer(maps))
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[2] * maps.shape[3], maps.shape[1])
        return F.linear(rows, self.conv1x1.weight.flatten(1), self.conv1x1.bias)

    def fold(self) -> None:
        """Fold the BatchNorms into the convolutions."""
        fused = []
        for layer in self.conv_layers:
            assert isinstance(layer, nn.Sequential)
            fused.append(fuse_conv_bn_eval(*layer))
        self.conv_layers = nn.ModuleList(fused)


class PositionEncoding(nn.Module):
    """Logarithms of the position weights of a block, from its parameters alone.

    A distance is mapped to `channels` values by a Linear that all blocks share (`rpe_proj`); then, on the grid around
    each token: 3×3 convolution, norm, ReLU, 3×3 convolution, norm, sigmoid. The norms are over the grid, for each token
    and channel on its own.

    Args:
        channels: channels that a distance is mapped to.
        heads: heads of attention.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.gn1 = nn.GroupNorm(channels, channels)
        self.conv2 = nn.Conv2d(channels, heads, 3)
        self.gn2 = nn.GroupNorm(heads, heads)

    def forward(self, distances: Tensor, mapping: nn.Linear) -> Tensor:
        """(L, 1, n + 4, n + 4) → (heads, L, L), with L = n². Always in the parameters' precision.

        The Linear of one input and the convolution after it are both linear: together they are a convolution of the
        distances, with a single input channel.
        """
        with in_float32(distances.device):
            weight = self.conv1.weight.transpose(0, 1).flatten(1)  # (input, output · 9)
            kernel = (mapping.weight.T @ weight).reshape(-1, 1, *self.conv1.kernel_size)
            assert self.conv1.bias is not None
            constant = (mapping.bias @ weight).reshape(len(kernel), -1).sum(1) + self.conv1.bias
            hidden = F.relu(self.gn1(F.conv2d(distances, kernel, constant)))
            values = self.gn2(self.conv2(hidden))
            return F.logsigmoid(values).flatten(2).transpose(0, 1)


class Attention(nn.Module):
    """Peripheral attention: the logits' exponentials are weighted by position before they are normalized.

    w·exp(z) / Σ w·exp(z) is softmax(z + ln w), which is what is computed. The authors' code divides by at least 1e-12,
    which it would take w below that at the largest logit to reach.

    Args:
        channels: channels of a token.
        heads: number of heads; head h has the contiguous channels from h·size on, of each of q, k and v.
        position_channels: channels of `activation`, the position weights.
    """

    log_weights: Tensor | None  # of positions (heads, L, L), after folding

    def __init__(self, channels: int, heads: int, position_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = channels // heads
        self.scale = self.size**-0.5
        self.activation = PositionEncoding(position_channels, heads)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.register_buffer("log_weights", None, persistent=False)

    def forward(self, tokens: Tensor, log_weights: Tensor) -> Tensor:
        """(N, L, C), and the logarithms of the position weights (heads, L, L) → (N, L, C)."""
        count = tokens.shape[1]
        query, key, value = (
            part.reshape(-1, count, self.heads, self.size).transpose(1, 2)
            for part in self.to_qkv(tokens).split(self.heads * self.size, -1)
        )
        query = query if self.scale == 1 else query * self.scale  # 1 after folding
        mixed = (query @ key.transpose(2, 3) + log_weights).softmax(-1) @ value
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, count, self.heads * self.size))
        return output

    def fold(self, log_weights: Tensor) -> None:
        """Keep the position weights, fold the scale into q, and pad heads with zeros to a multiple of 8 channels."""
        self.log_weights = log_weights
        channels, padded = self.to_qkv.in_features, -(-self.size // ALIGNMENT) * ALIGNMENT
        extra = padded - self.size
        weight = F.pad(self.to_qkv.weight.reshape(3, self.heads, self.size, channels), (0, 0, 0, extra))
        weight[0] *= self.scale
        self.to_qkv = nn.Linear(channels, 3 * self.heads * padded, bias=False)
        self.to_qkv.weight.copy_(weight.reshape(-1, channels))
        output = F.pad(self.proj.weight.reshape(-1, self.heads, self.size), (0, extra))
        bias = self.proj.bias
        self.proj = nn.Linear(self.heads * padded, len(output))
        self.proj.weight.copy_(output.flatten(1))
        self.proj.bias.copy_(bias)
        self.size, self.scale = padded, 1.0


class PositionConvolution(nn.Module):
    """Depthwise 3×3 convolution of the tokens on their grid.

    Args:
        channels: channels of a token.
        grid: tokens along a side.
    """

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C) → (N, L, C)."""
        maps = tokens.reshape(-1, self.grid, self.grid, tokens.shape[2]).permute(0, 3, 1, 2)
        return self.proj(maps).permute(0, 2, 3, 1).reshape(-1, self.grid**2, tokens.shape[2])


class Block(ResidualBlock):
    """Block of the transformer: attention behind a depthwise convolution, and an MLP, which may change the width.

    Args:
        config: the network's configuration.
        channels: of the input's tokens.
        out_channels: of the output's; where they differ, the shortcut of the MLP is a Linear (`res_path`).
    """

    def __init__(self, config: PerVitConfig, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = PositionConvolution(channels, config.grid)
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = Attention(channels, config.heads, config.position_channels)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        hidden = config.mlp_ratio * channels
        self.mlp = Mlp(nn.Linear(channels, hidden), nn.Linear(hidden, out_channels))
        self.res_path = nn.Identity() if channels == out_channels else nn.Linear(channels, out_channels)

    def forward(self, tokens: Tensor, log_weights: Tensor) -> Tensor:
        """(N, L, C) → (N, L, C'); for `log_weights` see `Attention`."""
        tokens = tokens + self.drop(self.attn(self.norm1(self.conv(tokens)), log_weights))
        output: Tensor = self.res_path(tokens) + self.drop(self.mlp(self.norm2(tokens)))
        return output


class PerViT(Network):
    """PerViT: a convolutional stem, and blocks of peripheral attention over all tokens; no class token.

    The position weights depend on parameters alone. They are computed in each forward pass, once for the whole batch,
    until `fold` makes them constants.

    Args:
        config: the network's configuration.
    """

    config: PerVitConfig
    distances: Tensor

    def __init__(self, config: PerVitConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_layers = Stem((*config.stem, config.widths[0]))
        self.rpe_proj = nn.Linear(1, config.position_channels)
        self.register_buffer("distances", distances(config.grid), persistent=False)
        self.blocks = nn.ModuleList(Block(config, before, after) for before, after in config.blocks)
        self.norm = nn.LayerNorm(config.widths[-1], eps=NORM_EPS)
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`: the last layer norm, whose mean over the tokens is classified."""
        return "norm"

    def feature_map(self, output: Tensor) -> Tensor:
        """See `Network.feature_map`."""
        return output.reshape(-1, self.config.grid, self.config.grid, output.shape[2]).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, classes)."""
        tokens = self.conv_layers(images)
        for block in self.blocks:
            tokens = block(tokens, self._log_weights(block))
        logits: Tensor = self.head(self.norm(tokens).mean(1))
        return logits

    def _log_weights(self, block: nn.Module) -> Tensor:
        assert isinstance(block, Block)
        if block.attn.log_weights is not None:
            return block.attn.log_weights
        log_weights: Tensor = block.attn.activation(self.distances, self.rpe_proj)
        return log_weights

    @torch.no_grad()
    def hold_constants(self) -> None:
        """See `Network.hold_constants`: the position weights."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attn.log_weights = self._log_weights(block)

    @torch.no_grad()
    def fold(self) -> None:
        """See `Network.fold`; the position weights become constants."""
        assert not self.training, "folding takes the running statistics"
        self.conv_layers.fold()
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attn.fold(self._log_weights(block))


def distances(grid: int) -> Tensor:
    """Distances from each token to each position of the grid and a border of 2 around it.

    Tokens are at equal steps from -1 to 1 along both axes; the border goes on in the same steps.

    Args:
        grid: n, tokens along a side, at least 2.

    Returns:
        Shape (n², 1, n + 4, n + 4): token, row by row; row; column.
    """
    step = 2 / (grid - 1)
    positions = torch.arange(-BORDER, grid + BORDER, dtype=torch.float64) * step - 1
    inner = positions[BORDER:-BORDER]
    squares = (inner[:, None] - positions) ** 2  # (n, n + 4)
    both = squares[:, None, :, None] + squares[None, :, None, :]
    return both.sqrt().reshape(grid**2, 1, len(positions), len(positions)).float()


def initialize(model: PerViT) -> None:
    """Set every weight of `model` in place, from torch's global generator, as the authors' code does.

    Attention, MLPs and the head: truncated normal, 0.02, biases 0. Position weights: constants, such that they fall
    with the distance, the steeper the earlier the block. The stem, the depthwise convolutions and `res_path` keep
    PyTorch's defaults.
    """
    nn.init.constant_(model.rpe_proj.weight, -POSITION_WEIGHT)
    nn.init.zeros_(model.rpe_proj.bias)
    count = len(model.blocks)
    biases, scales = (torch.linspace(*ends, count).tolist() for ends in (BIAS_RANGE, SCALE_RANGE))
    for block, bias, scale in zip(model.blocks, biases, scales, strict=True):
        assert isinstance(block, Block)
        for linear in (block.attn.to_qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            initialize_linears(linear)
        activation = block.attn.activation
        for convolution in (activation.conv1, activation.conv2):
            nn.init.constant_(convolution.weight, POSITION_WEIGHT)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.constant_(activation.gn2.bias, bias)
        nn.init.constant_(activation.gn2.weight, scale)
    initialize_linears(model.head)


SIZES = by_name(
    PerVitConfig(name="pervit-medium"),
    PerVitConfig(
        name="pervit-narrow", image_size=64, stem=(16, 32, 48), widths=(48, 72, 88, 104), depths=(1, 1, 2, 1), heads=4,
        position_channels=16,
    ),
)  # fmt: skip

FAMILY = Family(
    name="pervit",
    title="PerViT (Min et al. 2022, arXiv:2206.06801)",
    config=PerVitConfig,
    sizes=SIZES,
    network=PerViT,
    initialize=initialize,
    layout=Layout(
        marks=(r"blocks\.\d+\.attn\.to_qkv",),
        roots=frozenset(("conv_layers", "rpe_proj", "blocks", "norm", "head")),
    ),
    recipe={"drop_path": 0.2},
)
