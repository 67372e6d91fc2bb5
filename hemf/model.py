"""The HEMF network: a local and a global branch of four stages, fused stage by stage.

Built from a `HemfConfig`; knows nothing of files, training or export.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import Tensor, nn

from hemf.config import STAGES, HemfConfig
from hemf.fusion import HEF
from hemf.global_branch import EGF
from hemf.local_branch import ELF, Downsample, Stem, layer_norm

IMAGE_CHANNELS = 3


class StageFeatures(NamedTuple):
    """Feature maps of stages 1 to 4 of each branch; stage i: (N, C * 2**(i - 1), H / 2**(i + 1), W / 2**(i + 1))."""

    local: list[Tensor]
    global_: list[Tensor]
    fused: list[Tensor]


class HEMF(nn.Module):
    """HEMF (He et al., PeerJ Computer Science 2025, doi 10.7717/peerj-cs.3181).

    Args:
        config: sizes and depths.
    """

    def __init__(self, config: HemfConfig) -> None:
        super().__init__()
        self.config = config
        channels, sizes = config.stage_channels, config.stage_sizes
        steps = [(IMAGE_CHANNELS, channels[0]), *itertools.pairwise(channels)]

        def branch_steps() -> nn.ModuleList:
            return nn.ModuleList([Stem(*steps[0]), *(Downsample(*step) for step in steps[1:])])

        self.local_steps = branch_steps()
        self.local_stages = nn.ModuleList(
            nn.Sequential(*(ELF(channels[stage]) for _ in range(config.elf_depth))) for stage in range(STAGES)
        )
        self.global_steps = branch_steps()
        self.global_stages = nn.ModuleList(
            EGF(channels[stage], sizes[stage], sizes[stage], depth=config.egf_depth, heads=config.heads)
            for stage in range(STAGES)
        )
        self.fusion_stages = nn.ModuleList(
            HEF(channels[stage], previous=stage > 0, heads=config.heads, memory_slots=config.memory_slots)
            for stage in range(STAGES)
        )
        self.head_norm = layer_norm(channels[-1])
        self.head = nn.Linear(channels[-1], config.num_classes)

    def features(self, images: Tensor) -> StageFeatures:
        """(N, 3, image_size, image_size) → the feature maps of every stage."""
        local: Tensor = images
        global_: Tensor = images
        previous: Tensor | None = None
        stages = StageFeatures([], [], [])
        for stage in range(STAGES):
            local = self.local_stages[stage](self.local_steps[stage](local))
            global_ = self.global_stages[stage](self.global_steps[stage](global_))
            previous = self.fusion_stages[stage](local, global_, previous)
            stages.local.append(local)
            stages.global_.append(global_)
            stages.fused.append(previous)
        return stages

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        return self.classify(self.features(images).fused[-1])

    def classify(self, fused: Tensor) -> Tensor:
        """The last fused feature map (N, C, H, W) → logits (N, num_classes)."""
        logits: Tensor = self.head(self.head_norm(fused.mean((2, 3))))
        return logits
