"""The HEMF network: a local and a global branch of four stages, fused stage by stage.

Built from a `HemfConfig`; knows nothing of files, training or export.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import Tensor, nn

from hemf_export.networks.hemf import folding
from hemf_export.networks.hemf.config import STAGES, HemfConfig
from hemf_export.networks.hemf.fusion import HEF
from hemf_export.networks.hemf.global_branch import EGF
from hemf_export.networks.hemf.local_branch import ELF, Downsample, Stem, layer_norm
from hemf_export.networks.network import Network

IMAGE_CHANNELS = 3


class StageFeatures(NamedTuple):
    """Feature maps of stages 1 to 4; stage i has (N, C * 2**(i - 1), H / 2**(i + 1), W / 2**(i + 1)).

    Where the network has one branch alone, the list of the other is empty, and `fused` holds the maps of that one.
    """

    local: list[Tensor]
    global_: list[Tensor]
    fused: list[Tensor]


class HEMF(Network):
    """HEMF (He et al., PeerJ Computer Science 2025, doi 10.7717/peerj-cs.3181).

    Args:
        config: the network's configuration.
    """

    config: HemfConfig

    def __init__(self, config: HemfConfig) -> None:
        super().__init__()
        self.config = config
        channels, sizes = config.stage_channels, config.stage_sizes
        steps = [(IMAGE_CHANNELS, channels[0]), *itertools.pairwise(channels)]

        def branch_steps() -> list[nn.Module]:
            return [Stem(*steps[0]), *(Downsample(*step) for step in steps[1:])]

        local, global_ = config.branches != "global", config.branches != "local"
        self.local_steps = nn.ModuleList(branch_steps() if local else [])
        self.local_stages = nn.ModuleList(
            nn.Sequential(*(ELF(channels[stage]) for _ in range(config.elf_depth))) for stage in range(STAGES) if local
        )
        self.global_steps = nn.ModuleList(branch_steps() if global_ else [])
        self.global_stages = nn.ModuleList(
            EGF(channels[stage], sizes[stage], sizes[stage], depth=config.egf_depth, heads=config.heads)
            for stage in range(STAGES)
            if global_
        )
        self.fusion_stages = nn.ModuleList(
            HEF(
                channels[stage], previous=stage > 0, heads=config.heads, memory_slots=config.memory_slots,
                attention=config.attention, mlp=config.mlp,
            )
            for stage in range(STAGES)
            if local and global_
        )  # fmt: skip
        self.head_norm = layer_norm(channels[-1])
        self.head = nn.Linear(channels[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        last = {"both": "fusion_stages", "local": "local_stages", "global": "global_stages"}[self.config.branches]
        return f"{last}.{STAGES - 1}"

    def fold(self) -> None:
        """See `Network.fold`."""
        folding.fold(self)

    def features(self, images: Tensor) -> StageFeatures:
        """(N, 3, image_size, image_size), normalized → feature maps of every stage."""
        features = StageFeatures([], [], [])
        branches = (
            (self.local_steps, self.local_stages, features.local),
            (self.global_steps, self.global_stages, features.global_),
        )
        for stage in range(STAGES):
            for steps, stages, maps in branches:
                if stages:
                    maps.append(stages[stage](steps[stage](maps[-1] if maps else images)))
            if self.fusion_stages:
                previous = features.fused[-1] if features.fused else None
                features.fused.append(self.fusion_stages[stage](features.local[-1], features.global_[-1], previous))
        return features if self.fusion_stages else features._replace(fused=[*features.local, *features.global_])

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        return self.classify(self.features(images).fused[-1])

    def classify(self, fused: Tensor) -> Tensor:
        """The last fused feature map (N, C, H, W) → logits (N, num_classes)."""
        logits: Tensor = self.head(self.head_norm(fused.mean((2, 3))))
        return logits
