"""FocalNet (Yang et al. 2022, arXiv:2203.11926): focal modulation in attention's place.

Names and shapes of the tensors are those of the authors' code: `modulation.f` makes query, context and gates at once,
`modulation.h` is a 1×1 convolution, and the layers of `focal_layers.k` are a convolution and its activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hemf_export.networks.channel_layers import MapNorm, Mlp, PatchEmbedding, Pointwise, initialize_linears
from hemf_export.networks.configuration import STAGES, StagedConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Family, Layout, Network

EXPANSION = 4  # width of an MLP's hidden layer, in C
FIRST_KERNEL = 3  # side of the first level's convolution; each further one is 2 larger
MULTIPLE = 8  # of a product's outputs that tensor cores take
MOST_LEVELS = 4


@dataclass(frozen=True)
class FocalNetConfig(StagedConfig):
    """Everything that determines the tensors of a FocalNet; its other fields are those of `StagedConfig`.

    Args:
        levels: convolutions that gather context, of 3×3, 5×5 … pixels: 2 in the small receptive field's networks (SRF),
            3 in the large one's (LRF).

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = "focalnet"

    name: str = "focalnet-base-srf"
    depths: tuple[int, ...] = (2, 2, 18, 2)
    levels: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("levels", MOST_LEVELS)
        self.require_weights(2 * EXPANSION + 4)


class FocalModulation(nn.Module):
    """Focal modulation: proj(q · h(Σ context_i · gate_i)).

    context_i = GELU(depthwise convolution of context_(i-1)); the last one is GELU(mean of context_L over the pixels).

    Args:
        channels: C, kept.
        levels: L, the number of convolutions.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.f = nn.Linear(channels, 2 * channels + levels + 1)
        self.h = Pointwise(channels, channels)
        self.act = nn.GELU()
        self.proj = nn.Linear(channels, channels)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=False), nn.GELU()
            )
            for side in range(FIRST_KERNEL, FIRST_KERNEL + 2 * levels, 2)
        )
        self.gates = levels + 1  # outputs of `f` for gates; with those that folding adds, a multiple of 8

    def forward(self, rows: Tensor, height: int, width: int) -> Tensor:
        """(N*H*W, C) → (N*H*W, C)."""
        query, context, gates = torch.split(self.f(rows), [self.channels, self.channels, self.gates], 1)
        maps = to_maps(context, height, width)
        gate_maps = torch.split(to_maps(gates, height, width)[:, : self.levels + 1], 1, 1)
        gathered: Tensor | None = None
        for layer, gate in zip(self.focal_layers, gate_maps[:-1], strict=True):
            maps = layer(maps)
            gathered = maps * gate if gathered is None else gathered + maps * gate
        assert gathered is not None
        gathered = gathered + self.act(maps.mean((2, 3), keepdim=True)) * gate_maps[-1]
        return self.proj(query * self.h(to_rows(gathered)))

    @torch.no_grad()
    def fold(self) -> None:
        """Add outputs that nobody reads to the first product, in place.

        Tensor cores compute multiples of 8: with 2C+L+1 outputs, the compiler copies the result without the others.
        """
        self.gates = math.ceil((self.levels + 1) / MULTIPLE) * MULTIPLE
        padded = nn.Linear(self.channels, 2 * self.channels + self.gates)
        padded.weight.zero_()[: len(self.f.weight)].copy_(self.f.weight)
        padded.bias.zero_()[: len(self.f.bias)].copy_(self.f.bias)
        self.f = padded.eval()


class FocalBlock(ResidualBlock):
    """Block: x + modulation(LN(x)), then x + MLP(LN(x)).

    Args:
        channels: C, kept.
        levels: convolutions of the modulation.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.modulation = FocalModulation(channels, levels)
        self.norm2 = nn.LayerNorm(channels)
        hidden = EXPANSION * channels
        self.mlp = Mlp(nn.Linear(channels, hidden), nn.Linear(hidden, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        images, _, height, width = maps.shape
        rows = to_rows(maps)
        rows = rows + self.branch(self.modulation(self.norm1(rows), height, width), images)
        rows = rows + self.branch(self.mlp(self.norm2(rows)), images)
        return to_maps(rows, height, width)


class FocalStage(nn.Module):
    """Blocks of a stage, `blocks`, and the way to the next one, `downsample`."""

    def __init__(self, channels: int, depth: int, levels: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(FocalBlock(channels, levels) for _ in range(depth)))
        if not last:
            self.downsample = PatchEmbedding(channels, 2 * channels, 2)


class FocalNet(Network):
    """FocalNet (Yang et al., "Focal Modulation Networks", NeurIPS 2022, arXiv:2203.11926).

    Args:
        config: the network's configuration.
    """

    config: FocalNetConfig

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.stage_channels
        self.patch_embed = PatchEmbedding(3, channels[0], 4)
        self.layers = nn.ModuleList(
            FocalStage(channels[stage], config.depths[stage], config.levels, last=stage == STAGES - 1)
            for stage in range(STAGES)
        )
        self.norm = MapNorm(channels[-1])
        self.head = nn.Linear(channels[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        return f"layers.{STAGES - 1}.blocks"

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, image_size, image_size), normalized → maps of each stage, (N, C * 2**(i-1), side / 2**(i+1), …)."""
        maps, found = self.patch_embed(images), []
        for stage in self.layers:
            assert isinstance(stage, FocalStage)
            found.append(stage.blocks(maps))
            if len(found) < STAGES:
                maps = stage.downsample(found[-1])
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        logits: Tensor = self.head(self.norm(self.features(images)[-1]).mean((2, 3)))
        return logits

    def fold(self) -> None:
        """See `Network.fold`: the outputs of each modulation's first product become a multiple of 8."""
        assert not self.training
        for module in list(self.modules()):
            if isinstance(module, FocalModulation):
                module.fold()


SIZES = by_name(
    FocalNetConfig(),
    FocalNetConfig(name="focalnet-base-lrf", levels=3),
    FocalNetConfig(name="focalnet-narrow", image_size=64, width=16, depths=(1, 1, 2, 1)),
)

FAMILY = Family(
    name=FocalNetConfig.FAMILY,
    title="FocalNet (Yang et al. 2022, arXiv:2203.11926)",
    config=FocalNetConfig,
    sizes=SIZES,
    network=FocalNet,
    initialize=initialize_linears,
    layout=Layout(
        marks=(r"layers\.\d+\.blocks\.\d+\.modulation\.",), roots=frozenset(["patch_embed", "layers", "norm", "head"])
    ),
    recipe={"drop_path": 0.5},
)
