"""UniFormer (Li et al. 2022, arXiv:2201.09450): convolutional blocks in stages 1 and 2, attention in 3 and 4.

Names and shapes of the tensors are those of the authors' code: in the convolutional blocks `attn` is a depthwise
convolution, and the MLP's layers are 1×1 convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import Mlp, PatchEmbedding, fold_into_next, initialize_linears
from hemf_export.networks.configuration import LARGEST_SCORES, LARGEST_WEIGHTS, STAGES, NetworkConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Family, Layout, Network

CONVOLUTIONAL = 2  # stages of convolutional blocks; the others have attention
EXPANSION = 4  # width of an MLP's hidden layer, in C
NORM_EPSILON = 1e-6  # of the attention blocks' layer norms; those of the patch embeddings have 1e-5
LARGEST_WIDTH, LARGEST_DEPTH = 1024, 64


@dataclass(frozen=True)
class UniFormerConfig(NetworkConfig):
    """Everything that determines the tensors of a UniFormer.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels, a multiple of 32.
        widths: channels of the four stages; those of the last two are multiples of `head_channels`.
        depths: number of blocks in each of the four stages.
        head_channels: channels of an attention head.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = "uniformer"

    name: str = "uniformer-base"
    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (5, 8, 20, 7)
    head_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("widths", LARGEST_WIDTH)
        self.require_positive("depths", LARGEST_DEPTH)
        self.require_positive("head_channels", LARGEST_WIDTH)
        for name in ("widths", "depths"):
            self.require_numbers(name, STAGES)
        if any(width % self.head_channels for width in self.widths[CONVOLUTIONAL:]):
            raise BadInputError(
                f"The widths of stages 3 and 4 must be multiples of head_channels, {self.head_channels}, not "
                f"{self.widths[2]} and {self.widths[3]}."
            )
        weights = sum(
            (2 * EXPANSION + 4) * width**2 * depth for width, depth in zip(self.widths, self.depths, strict=True)
        )
        self.require_at_most(LARGEST_WEIGHTS, weights, "weights")
        for stage in range(CONVOLUTIONAL, STAGES):
            scores = self.widths[stage] // self.head_channels * (self.image_size // (4 * 2**stage)) ** 4
            self.require_at_most(LARGEST_SCORES, scores, "attention scores")


class UniFormerBlock(ResidualBlock):
    """Base of the blocks, which form one order of depth."""

    chain = "uniformer"


class ConvolutionalBlock(UniFormerBlock):
    """Block of stages 1 and 2: x + 3×3(x); then x + 1×1(5×5(1×1(BN(x)))); then x + MLP(BN(x)). 3×3, 5×5: depthwise.

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1: nn.Module = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.attn = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        hidden = EXPANSION * channels
        self.mlp = Mlp(nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        maps = maps + self.pos_embed(maps)
        maps = maps + self.drop(self.conv2(self.attn(self.conv1(self.norm1(maps)))))
        return maps + self.drop(self.mlp(self.norm2(maps)))

    def fold(self) -> None:
        """Fold each BatchNorm into the product behind it, in place."""
        if isinstance(self.norm1, nn.BatchNorm2d) and isinstance(self.norm2, nn.BatchNorm2d):
            fold_into_next(self.norm1, self.conv1)
            fold_into_next(self.norm2, self.mlp.fc1)
            self.norm1 = self.norm2 = nn.Identity()


class Attention(nn.Module):
    """Attention of every pixel of an image to all of them.

    Args:
        channels: C, kept.
        heads: number of heads; head h has the contiguous channels from h*C/heads on.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, pixels: int) -> Tensor:
        """(N*pixels, C) → (N*pixels, C)."""
        parts = torch.split(self.qkv(rows), self.channels, 1)
        shape = (-1, pixels, self.heads, self.channels // self.heads)
        query, key, value = (part.reshape(shape).transpose(1, 2) for part in parts)
        if self.training:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            if self.scale != 1:
                query = query * self.scale
            mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(-1, self.channels))

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the scale into the query's weights, in place."""
        self.qkv.weight[: self.channels].mul_(self.scale)
        self.qkv.bias[: self.channels].mul_(self.scale)
        self.scale = 1.0


class AttentionBlock(UniFormerBlock):
    """Block of stages 3 and 4: x + depthwise 3×3(x); then x + attention(LN(x)); then x + MLP(LN(x)).

    Args:
        channels: C, kept.
        heads: number of attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        hidden = EXPANSION * channels
        self.mlp = Mlp(nn.Linear(channels, hidden), nn.Linear(hidden, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        images, _, height, width = maps.shape
        rows = to_rows(maps + self.pos_embed(maps))
        rows = rows + self.branch(self.attn(self.norm1(rows), height * width), images)
        rows = rows + self.branch(self.mlp(self.norm2(rows)), images)
        return to_maps(rows, height, width)


class UniFormer(Network):
    """UniFormer (Li et al. 2022, "Unifying Convolution and Self-attention for Visual Recognition", arXiv:2201.09450).

    Args:
        config: the network's configuration.
    """

    config: UniFormerConfig

    def __init__(self, config: UniFormerConfig) -> None:
        super().__init__()
        self.config = config
        before = 3
        for stage, (channels, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            heads = channels // config.head_channels
            blocks = (
                ConvolutionalBlock(channels) if stage < CONVOLUTIONAL else AttentionBlock(channels, heads)
                for _ in range(depth)
            )
            self.add_module(f"patch_embed{stage + 1}", PatchEmbedding(before, channels, 2 if stage else 4))
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*blocks))
            before = channels
        self.norm: nn.Module = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        return f"blocks{STAGES}"

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, image_size, image_size), normalized → maps of each stage, (N, widths[i-1], side / 2**(i+1), …)."""
        maps, found = images, []
        for stage in range(1, STAGES + 1):
            maps = self.get_submodule(f"blocks{stage}")(self.get_submodule(f"patch_embed{stage}")(maps))
            found.append(maps)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        logits: Tensor = self.head(self.norm(self.features(images)[-1]).mean((2, 3)))
        return logits

    def fold(self) -> None:
        """See `Network.fold`: BatchNorms into the products behind them, attention's scales into queries' weights."""
        assert not self.training
        if isinstance(self.norm, nn.BatchNorm2d):
            fold_into_next(self.norm, self.head)
            self.norm = nn.Identity()
        for module in list(self.modules()):
            if isinstance(module, ConvolutionalBlock | Attention):
                module.fold()


SIZES = by_name(
    UniFormerConfig(),
    UniFormerConfig(
        name="uniformer-narrow", image_size=64, widths=(16, 32, 64, 96), depths=(1, 1, 2, 1), head_channels=32
    ),
)

FAMILY = Family(
    name=UniFormerConfig.FAMILY,
    title="UniFormer (Li et al. 2022, arXiv:2201.09450)",
    config=UniFormerConfig,
    sizes=SIZES,
    network=UniFormer,
    initialize=initialize_linears,
    layout=Layout(
        marks=(r"blocks[1-4]\.\d+\.", r"patch_embed[1-4]\."),
        roots=frozenset(
            [
                *(f"{part}{stage}" for part in ("patch_embed", "blocks") for stage in range(1, STAGES + 1)),
                "norm",
                "head",
            ]
        ),
    ),
    recipe={"drop_path": 0.3},
)
