"""Conformer: a convolutional branch and a transformer branch that exchange their features in every unit.

Peng et al. 2021, "Conformer: Local Features Coupling Global Representations for Visual Recognition",
arXiv:2105.03889. Names of modules are those of the authors' checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import LINEAR_STD, Mlp, initialize_linears
from hemf_export.networks.configuration import LARGEST_SCORES, LARGEST_WEIGHTS, NetworkConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.network import Family, Layout, Network

PATCH = 16  # pixels of a token's side
EXPANSION = 4  # of a convolutional block: its 3×3 convolution has a quarter of the channels
NORM_EPS = 1e-6  # of every norm but the stem's BatchNorm and the last layer norm, which have PyTorch's 1e-5
LIMITS = {"stem": 512, "width": 1024, "embedding": 2048, "heads": 64, "mlp_ratio": 8, "depths": 24}


@dataclass(frozen=True)
class ConformerConfig(NetworkConfig):
    """Everything that determines the tensors of a Conformer.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of each of the two classifiers.
        image_size: height and width of the input in pixels, a multiple of 16. There is no position embedding: the
            tensors don't depend on it.
        stem: channels after the first convolution.
        width: channels of the convolutional branch in stage 1, a multiple of 4; stages 2 and 3 have twice and four
            times as many.
        embedding: channels of a token.
        heads: heads of attention.
        mlp_ratio: hidden channels of an MLP, in multiples of `embedding`.
        depths: units of the three stages.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = "conformer"
    STRIDE: ClassVar[int] = PATCH

    stem: int = 64
    width: int = 384
    embedding: int = 576
    heads: int = 9
    mlp_ratio: int = 4
    depths: tuple[int, ...] = (4, 4, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in LIMITS.items():
            self.require_positive(name, limit)
        self.require_numbers("depths", 3)
        if self.width % EXPANSION:
            raise BadInputError(f"width must be a multiple of {EXPANSION}, not {self.width}.")
        if self.embedding % self.heads:
            raise BadInputError(f"embedding {self.embedding} must split into {self.heads} heads.")
        inner = [channels // EXPANSION for channels, _ in self.units]
        weights = (4 + 2 * self.mlp_ratio) * self.embedding**2 * len(inner)
        weights += sum(34 * width**2 + 2 * width * self.embedding for width in inner)
        self.require_at_most(LARGEST_WEIGHTS, weights, "weights")
        self.require_at_most(LARGEST_SCORES, self.heads * (self.image_size // PATCH) ** 4, "attention scores")

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """Channels of the convolutional branch, and pixels of its map by token (along a side), of each unit."""
        return tuple(
            (self.width * 2**stage, 4 // 2**stage) for stage, depth in enumerate(self.depths) for _ in range(depth)
        )


class Bottleneck(nn.Module):
    """Base of the convolutional branch's blocks: 1×1, 3×3 and 1×1 convolutions with BatchNorms, and a shortcut.

    Args:
        channels: input channels.
        out_channels: output channels, 4 times those of the 3×3 convolution.
        stride: of the 3×3 convolution.
        projected: whether the shortcut is a convolution with BatchNorm (`residual_conv`, `residual_bn`).
    """

    def __init__(self, channels: int, out_channels: int, *, stride: int = 1, projected: bool = False) -> None:
        super().__init__()
        inner = out_channels // EXPANSION
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps=NORM_EPS)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=NORM_EPS)
        if projected:
            self.residual_conv = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
            self.residual_bn = nn.BatchNorm2d(out_channels, eps=NORM_EPS)
        self.projected = projected

    def outputs(self, maps: Tensor, expanded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) → the output (N, C', H/stride, W/stride), and the inner map (N, C'/4, H/stride, W/stride).

        Args:
            maps: the input.
            expanded: features of the transformer (N, C'/4, H/d, W/d), added before the 3×3 convolution.
        """
        inner = F.relu(self.bn1(self.conv1(maps)))
        if expanded is not None:
            inner = add_enlarged(inner, expanded)
        inner = F.relu(self.bn2(self.conv2(inner)))
        shortcut = self.residual_bn(self.residual_conv(maps)) if self.projected else maps
        return F.relu(self.bn3(self.conv3(inner)) + shortcut), inner


class ConvBlock(Bottleneck):
    """Block whose inner map goes to the transformer."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Bottleneck.outputs`."""
        return self.outputs(maps)


class FusionBlock(Bottleneck):
    """Block that takes in features of the transformer."""

    def forward(self, maps: Tensor, expanded: Tensor) -> Tensor:
        """See `Bottleneck.outputs`; the output alone."""
        return self.outputs(maps, expanded)[0]


def add_enlarged(maps: Tensor, small: Tensor) -> Tensor:
    """Add a smaller map (N, C, H/d, W/d), each pixel repeated d times along both axes, to (N, C, H, W)."""
    (channels, height, width), (rows, columns) = maps.shape[1:], small.shape[2:]
    if height == rows:
        return maps + small
    tiles = maps.reshape(-1, channels, rows, height // rows, columns, width // columns)
    return (tiles + small[:, :, :, None, :, None]).reshape(-1, channels, height, width)


class Attention(nn.Module):
    """Self-attention over all tokens.

    Args:
        channels: channels of a token.
        heads: number of heads; head h has the contiguous channels from h·size on, of each of q, k and v.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.folded = False  # whether the scale of the logits is in the weights of q

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C) → (N, L, C)."""
        count = tokens.shape[1]
        query, key, value = (
            part.reshape(-1, count, self.heads, self.size).transpose(1, 2)
            for part in self.qkv(tokens).split(self.heads * self.size, -1)
        )
        if self.folded:
            mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, count, self.heads * self.size))
        return output

    def fold(self) -> None:
        """Fold the scale of the logits, size^-0.5, into the weights of q."""
        for parameter in self.qkv.parameters():
            parameter[: self.heads * self.size] *= self.size**-0.5
        self.folded = True


class TransBlock(ResidualBlock):
    """Block of the transformer: attention and an MLP, both with a layer norm before and a residual connection.

    Args:
        config: the network's configuration.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels = config.embedding
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = Attention(channels, config.heads)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        hidden = config.mlp_ratio * channels
        self.mlp = Mlp(nn.Linear(channels, hidden), nn.Linear(hidden, channels))
        self.scale = 1.0  # of the residual stream; see `Conformer.fold`

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C) → (N, L, C), both times `scale`."""
        tokens = tokens + self._scaled(self.drop(self.attn(self.norm1(tokens))))
        return tokens + self._scaled(self.drop(self.mlp(self.norm2(tokens))))

    def _scaled(self, branch: Tensor) -> Tensor:
        return branch if self.scale == 1 else branch * self.scale

    def fold(self, scale: float) -> None:
        """Take and give tokens that are `scale` times as large: layer norms then need an epsilon as much smaller."""
        self.attn.fold()
        self.scale = scale
        self.norm1.eps = self.norm2.eps = NORM_EPS * scale**2


class Squeeze(nn.Module):
    """Map of the convolutional branch → tokens: a 1×1 convolution, average pooling, layer norm and GELU.

    The 1×1 convolution runs after the pooling, with which it commutes: at d² times fewer positions.

    Args:
        channels: channels of the map.
        embedding: channels of a token.
        side: d, pixels of a token's side.
    """

    def __init__(self, channels: int, embedding: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv_project = nn.Conv2d(channels, embedding, 1)
        self.ln = nn.LayerNorm(embedding, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H/d · W/d, E), row by row."""
        pooled = F.avg_pool2d(maps, self.side) if self.side > 1 else maps
        rows = pooled.permute(0, 2, 3, 1).reshape(-1, pooled.shape[2] * pooled.shape[3], pooled.shape[1])
        return F.gelu(self.ln(project(rows, self.conv_project)))


class Expand(nn.Module):
    """Tokens → a map for the convolutional branch: 1×1 convolution, BatchNorm and ReLU.

    Args:
        embedding: channels of a token.
        channels: channels of the map.
    """

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(embedding, channels, 1)
        self.bn = nn.BatchNorm2d(channels, eps=NORM_EPS)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, rows·columns, E) → (N, C, rows, columns); `grid` is (rows, columns)."""
        projected = project(tokens, self.conv_project)
        maps = projected.reshape(-1, *grid, projected.shape[2]).permute(0, 3, 1, 2)
        return F.relu(self.bn(maps))


def project(rows: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Apply a 1×1 convolution to rows (N, L, C)."""
    return F.linear(rows, convolution.weight.flatten(1), convolution.bias)


class Unit(nn.Module):
    """A step of both branches with the exchange between them (the paper's feature coupling unit).

    Args:
        config: the network's configuration.
        channels: input channels of the convolutional branch.
        out_channels: its output channels; where they differ, the map is halved.
        side: pixels of the convolutional branch's map by token, along a side.
        last: whether the convolutional branch's map is halved at the end.
    """

    def __init__(
        self, config: ConformerConfig, channels: int, out_channels: int, side: int, *, last: bool = False
    ) -> None:
        super().__init__()
        inner, halved = out_channels // EXPANSION, channels != out_channels
        self.cnn_block = ConvBlock(channels, out_channels, stride=2 if halved else 1, projected=halved)
        self.squeeze_block = Squeeze(inner, config.embedding, side)
        self.expand_block = Expand(config.embedding, inner)
        self.trans_block = TransBlock(config)
        self.fusion_block = FusionBlock(out_channels, out_channels, stride=2 if last else 1, projected=last)
        self.side = side
        self.kept = 1.0  # factor of the tokens that come in; see `Conformer.fold`

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches' features → theirs after this unit; (N, C, H, W) and (N, 1 + L, E).

        The squeezed map is added to the tokens, and the class token to itself: it is doubled.
        """
        maps, inner = self.cnn_block(maps)
        squeezed, patches = self.squeeze_block(inner), tokens[:, 1:]
        if self.kept == 1:
            tokens = torch.cat((tokens[:, :1] * 2, patches + squeezed), 1)
        else:
            tokens = torch.cat((tokens[:, :1], patches * self.kept + squeezed * self.trans_block.scale), 1)
        tokens = self.trans_block(tokens)
        grid = maps.shape[2] // self.side, maps.shape[3] // self.side
        return self.fusion_block(maps, self.expand_block(tokens[:, 1:], grid)), tokens

    def fold(self, scale: float) -> None:
        """Take tokens that are 2·`scale` times as large as in training, and give such that are `scale` times."""
        self.kept = 0.5
        self.trans_block.fold(scale)
        self.expand_block.conv_project.weight /= scale


class Conformer(Network):
    """Conformer with its two classifiers, one of each branch.

    In evaluation mode `forward` returns the sum of both logits; in training mode the tuple (logits of the convolutional
    branch, logits of the transformer), for a loss on each.

    The class token takes part in the exchange only by being added to itself, so each unit but the first doubles it:
    2,048 times in the published size. Checkpoints are trained so, and this is kept. See `fold` for float16.

    Args:
        config: the network's configuration.
    """

    config: ConformerConfig

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        embedding, units = config.embedding, config.units
        channels = units[-1][0]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embedding))
        self.trans_norm = nn.LayerNorm(embedding)
        self.trans_cls_head = nn.Linear(embedding, config.num_classes)
        self.conv_cls_head = nn.Linear(channels, config.num_classes)
        self.conv1 = nn.Conv2d(3, config.stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem)
        self.conv_1 = ConvBlock(config.stem, config.width, projected=True)
        self.trans_patch_conv = nn.Conv2d(config.stem, embedding, 4, stride=4)
        self.trans_1 = TransBlock(config)
        for number, ((before, _), (after, side)) in enumerate(itertools.pairwise(units), 2):
            unit = Unit(config, before, after, side, last=number == len(units))
            self.add_module(f"conv_trans_{number}", unit)

    def units(self) -> Iterator[Unit]:
        """Units 2 to the last."""
        for number in range(2, len(self.config.units) + 1):
            unit = self.get_submodule(f"conv_trans_{number}")
            assert isinstance(unit, Unit)
            yield unit

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`: the map of the convolutional branch, which its logits alone depend on."""
        return f"conv_trans_{len(self.config.units)}.fusion_block"

    def saved_multiply_adds(self) -> Mapping[str, int]:
        """See `Network.saved_multiply_adds`: maps are averaged over a token's pixels before their 1×1 convolution.

        Both are linear, so the authors' other order gives the same.
        """
        tokens = (self.config.image_size // PATCH) ** 2
        return {
            f"conv_trans_{number}": (side**2 - 1) * tokens * (channels // EXPANSION) * self.config.embedding
            for number, (channels, side) in enumerate(self.config.units, 1)
            if number > 1 and side > 1
        }

    def decays(self, name: str, parameter: Tensor) -> bool:
        """See `Network.decays`; the class token doesn't decay either."""
        return parameter.ndim > 1 and name != "cls_token"

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, 3, H, W), normalized → logits (N, classes); in training mode those of each branch."""
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        maps, _ = self.conv_1(stem)
        patches = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        # Padded and added, not concatenated: an expanded class token would have the batch in its shape.
        first = F.pad(self.cls_token, (0, 0, 0, patches.shape[1]))
        tokens = self.trans_1(F.pad(patches, (0, 0, 1, 0)) + first)
        for unit in self.units():
            maps, tokens = unit(maps, tokens)
        local, global_ = self.conv_cls_head(maps.mean((2, 3))), self.trans_cls_head(self.trans_norm(tokens[:, 0]))
        return (local, global_) if self.training else local + global_

    @torch.no_grad()
    def fold(self) -> None:
        """See `Network.fold`. Also scales the tokens so that the doubled class token stays within float16.

        From unit to unit the tokens are halved, so that the class token keeps its size instead of being doubled, and
        the patches' tokens become smaller: float16 has the exponents for that. All factors are powers of two, which
        change no digit in float32. Layer norms have a smaller epsilon instead, the expansions larger weights, and what
        is added to the tokens is scaled.
        """
        assert not self.training, "folding takes the running statistics"
        _fold_norm(self, "conv1", "bn1")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                for convolution, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
                    _fold_norm(module, convolution, norm)
                if module.projected:
                    _fold_norm(module, "residual_conv", "residual_bn")
            elif isinstance(module, Expand):
                _fold_norm(module, "conv_project", "bn")
        scale = 1.0
        self.trans_1.fold(scale)
        for unit in self.units():
            scale /= 2
            unit.fold(scale)
        self.trans_norm.eps *= scale**2


def _fold_norm(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold the BatchNorm named `norm` into the convolution before it."""
    fused = fuse_conv_bn_eval(module.get_submodule(convolution), module.get_submodule(norm))  # type: ignore[type-var, arg-type]
    setattr(module, convolution, fused)
    setattr(module, norm, nn.Identity())


def initialize(model: Conformer) -> None:
    """Set every weight of `model` in place, from torch's global generator, as the authors' code does.

    Linears and the class token: truncated normal, 0.02, biases 0. Convolutions: Kaiming's normal for the outputs;
    biases and norms are PyTorch's.
    """
    nn.init.trunc_normal_(model.cls_token, std=LINEAR_STD)
    initialize_linears(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


SIZES = by_name(
    ConformerConfig(name="conformer-base"),
    ConformerConfig(
        name="conformer-narrow", image_size=64, stem=16, width=64, embedding=48, heads=3, mlp_ratio=2, depths=(2, 2, 2)
    ),
)

ROOTS = frozenset(
    {"cls_token", "trans_norm", "trans_cls_head", "conv_cls_head", "conv1", "bn1", "conv_1", "trans_patch_conv"}
    | {"trans_1"} | {f"conv_trans_{number}" for number in range(2, 3 * LIMITS["depths"] + 1)}
)  # fmt: skip

FAMILY = Family(
    name="conformer",
    title="Conformer (Peng et al. 2021, arXiv:2105.03889)",
    config=ConformerConfig,
    sizes=SIZES,
    network=Conformer,
    initialize=initialize,
    layout=Layout(marks=(r"conv_trans_\d+\.",), roots=ROOTS, heads=("conv_cls_head", "trans_cls_head")),
    recipe={"drop_path": 0.1},
)
