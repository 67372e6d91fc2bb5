"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): depthwise 7×7 convolutions and MLPs over channels.

Names and shapes of the tensors are those of the authors' code: `downsample_layers.0` is the stem.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hemf_export.networks.channel_layers import MapNorm
from hemf_export.networks.configuration import STAGES, StagedConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Family, Layout, Network

EXPANSION = 4  # width of a block's hidden layer, in C
NORM_EPSILON = 1e-6
LAYER_SCALE = 1e-6  # initial γ
WEIGHT_STD = 0.02  # of the initial weights


@dataclass(frozen=True)
class ConvNeXtConfig(StagedConfig):
    """Everything that determines the tensors of a ConvNeXt; its fields are those of `StagedConfig`."""

    FAMILY: ClassVar[str] = "convnext"

    name: str = "convnext-base"
    depths: tuple[int, ...] = (3, 3, 27, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weights(2 * EXPANSION)


class ConvNeXtBlock(ResidualBlock):
    """Block: x + γ·(Linear 4C→C)(GELU((Linear C→4C)(LN(depthwise 7×7(x))))).

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.pwconv1 = nn.Linear(channels, EXPANSION * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(EXPANSION * channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        rows = self.pwconv2(self.act(self.pwconv1(self.norm(to_rows(self.dwconv(maps))))))
        if self.gamma is not None:
            rows = rows * self.gamma
        return to_maps(to_rows(maps) + self.branch(rows, len(maps)), *maps.shape[2:])

    @torch.no_grad()
    def fold(self) -> None:
        """Fold γ into the second Linear, in place."""
        if self.gamma is not None:
            self.pwconv2.weight.mul_(self.gamma[:, None])
            self.pwconv2.bias.mul_(self.gamma)
            self.gamma = None


class ConvNeXt(Network):
    """ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545).

    Args:
        config: the network's configuration.
    """

    config: ConvNeXtConfig

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.stage_channels
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, channels[0], 4, stride=4), MapNorm(channels[0], eps=NORM_EPSILON))]
        )
        for before, after in itertools.pairwise(channels):
            self.downsample_layers.append(
                nn.Sequential(MapNorm(before, eps=NORM_EPSILON), nn.Conv2d(before, after, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(channels[stage]) for _ in range(config.depths[stage])))
            for stage in range(STAGES)
        )
        self.norm = nn.LayerNorm(channels[-1], eps=NORM_EPSILON)
        self.head = nn.Linear(channels[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        return f"stages.{STAGES - 1}"

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, image_size, image_size), normalized → maps of each stage, (N, C * 2**(i-1), side / 2**(i+1), …)."""
        maps, found = images, []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            maps = stage(downsample(maps))
            found.append(maps)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        logits: Tensor = self.head(self.norm(self.features(images)[-1].mean((2, 3))))
        return logits

    def fold(self) -> None:
        """See `Network.fold`: γ into the second Linear of each block."""
        assert not self.training
        for block in self.modules():
            if isinstance(block, ConvNeXtBlock):
                block.fold()


def initialize(model: ConvNeXt) -> None:
    """Set every weight in place: truncated normal (0.02, cut at ±2), biases 0, γ 1e-6, norms the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


SIZES = by_name(
    ConvNeXtConfig(),
    ConvNeXtConfig(name="convnext-narrow", image_size=64, width=16, depths=(1, 1, 2, 1)),
)

FAMILY = Family(
    name=ConvNeXtConfig.FAMILY,
    title="ConvNeXt (Liu et al. 2022, arXiv:2201.03545)",
    config=ConvNeXtConfig,
    sizes=SIZES,
    network=ConvNeXt,
    initialize=initialize,
    layout=Layout(
        marks=(r"stages\.\d+\.\d+\.pwconv[12]\.",), roots=frozenset(["downsample_layers", "stages", "norm", "head"])
    ),
    recipe={"drop_path": 0.5},
)
