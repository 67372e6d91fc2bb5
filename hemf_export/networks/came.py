"""CAME, as HEMF's authors have it for comparison (He et al. 2025, doi:10.7717/peerj-cs.3181; Li's own isn't public).

Three branches are fused: a convolutional one, one of window attention and one of external attention. Names and shapes
of the tensors are those of that code: `stages`, `basic_layers` and `ea`; `dowm_all` is its spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import MapNorm, Pointwise
from hemf_export.networks.configuration import STAGES, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.hifuse import (
    IRMLP,
    LEAST_SQUEEZED,
    NORM_EPSILON,
    ConvNorm,
    WindowedConfig,
    WindowedFamily,
    WindowedNetwork,
    carried,
    channel_gate,
    convnorm_shapes,
    global_branch,
    initialize_branches,
    norm_shapes,
    unused_in_blocks,
)
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Layout
from hemf_export.networks.window_attention import WindowAttention, Windows

REDUCTION = 8  # of the channels in a channel gate
MEMORY_STD = 0.001  # of the initial weights of external attention
LARGEST_SLOTS = 1024
DUPLICATES = "EA_1."  # under which a file has the tensors of `ea.0` a second time


class StageFeatures(NamedTuple):
    """Feature maps of stages 1 to 4, by branch."""

    local: list[Tensor]
    global_: list[Tensor]
    ea: list[Tensor]
    fused: list[Tensor]


@dataclass(frozen=True)
class CameConfig(WindowedConfig):
    """Everything that determines the tensors of a CAME; its other fields are those of `WindowedConfig`.

    Args:
        memory_slots: rows of the memory of external attention.
    """

    FAMILY: ClassVar[str] = "came"
    INPUTS: ClassVar[int] = 4

    name: str = "came"
    memory_slots: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("memory_slots", LARGEST_SLOTS)


class LocalBlock(ResidualBlock):
    """Block of the local branch: x + Linear(GELU(3×3(LN(depthwise 3×3(x))))).

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.pwconv = nn.Linear(channels, channels)
        self.norm = MapNorm(channels, eps=NORM_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        rows = self.pwconv(to_rows(F.gelu(self.conv(self.norm(self.dwconv(maps))))))
        return to_maps(to_rows(maps) + self.branch(rows, len(maps)), *maps.shape[2:])


class GlobalBlock(ResidualBlock):
    """Block of the global branch: x + GELU(Linear(window attention(LN(3×3(x))))), on tokens.

    Convolution and norm read the memory of an image's tokens, (H*W, C), as that of a map (C, H, W), without a
    transpose, and their result is read back in the same way. The networks were trained like this.

    Args:
        channels: C, kept.
        heads: number of attention heads.
        windows: its windows.
    """

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self.side = windows.side
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.ln = MapNorm(channels, eps=NORM_EPSILON)
        self.attn = WindowAttention(channels, heads, windows)
        self.fc1 = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, images: int) -> Tensor:
        """(N*H*W, C) → (N*H*W, C), where N = `images`."""
        channels = rows.shape[1]
        scrambled = self.ln(self.conv(rows.reshape(-1, channels, self.side, self.side)))
        return rows + self.branch(F.gelu(self.fc1(self.attn(scrambled.reshape(-1, channels)))), images)


class ExternalAttention(nn.Module):
    """External attention with a shortcut: x + mv(n), on maps (N, C, H, W).

    n is softmax(mk(LN(x))) over the pixels, divided by its sum over the memory's slots. With z, the logarithm of the
    softmax's denominator, one number per slot, this is a softmax over the slots of mk(LN(x)) - z, which can't become
    0/0, not even in float16.

    Args:
        channels: C, kept.
        slots: rows of the memory.
    """

    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.mk = nn.Linear(channels, slots, bias=False)
        self.mv = nn.Linear(slots, channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        rows = to_rows(maps)
        scores = self.mk(self.ln(rows)).reshape(-1, height * width, self.mk.out_features)
        largest = scores.detach().amax(1, keepdim=True)
        denominator = largest + (scores - largest).exp().sum(1, keepdim=True).log()
        attention = (scores - denominator).softmax(-1).reshape(-1, self.mk.out_features)
        return to_maps(rows + self.mv(attention), height, width)


class SpatialGate(nn.Module):
    """A factor for each pixel: σ(3×3[mean, maximum over channels]); (N, C, H, W) → (N, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
        gate: Tensor = self.conv1(pooled).sigmoid()
        return gate


class ChannelGate(nn.Module):
    """A factor for each channel: σ(m(mean) + m(maximum)) over pixels, m: C→C/8, ReLU, C/8→C, both without bias.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(LEAST_SQUEEZED, channels // REDUCTION)
        self.fc1 = Pointwise(channels, squeezed, bias=False)
        self.fc2 = Pointwise(squeezed, channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, 1, 1)."""
        return channel_gate(self.fc1, self.fc2, maps)


class Fusion(ResidualBlock):
    """Fusion of the maps of the branches and, from stage 2 on, the previous fused one, which is its shortcut.

    Args:
        channels: C of the maps and the output; a previous output has C/2.
        previous: whether a previous output is fused too.
    """

    def __init__(self, channels: int, previous: bool) -> None:
        super().__init__()
        self.W_l = ConvNorm(channels, channels)
        self.W_g = ConvNorm(channels, channels)
        self.W_ea = ConvNorm(channels, channels)
        self.sa_l, self.sa_g, self.sa_ea = SpatialGate(), SpatialGate(), SpatialGate()
        self.ca_l, self.ca_g, self.ca_ea = ChannelGate(channels), ChannelGate(channels), ChannelGate(channels)
        if previous:
            self.W_pre = ConvNorm(channels // 2, channels)
            self.norm_all = nn.LayerNorm(4 * channels, eps=NORM_EPSILON)
            self.dowm_all = ConvNorm(4 * channels, channels)
        else:
            self.norm_all_no_pre = nn.LayerNorm(3 * channels, eps=NORM_EPSILON)
            self.dowm_all_no_pre = ConvNorm(3 * channels, channels)
        self.norm_all_end = nn.LayerNorm(4 * channels, eps=NORM_EPSILON)
        self.irmlp = IRMLP(4 * channels, channels)

    def forward(self, local: Tensor, global_: Tensor, external: Tensor, previous: Tensor | None) -> Tensor:
        """Three maps (N, C, H, W), and (N, C/2, 2H, 2W) or None → (N, C, H, W)."""
        images, _, height, width = local.shape
        parts = [self.W_l(to_rows(local)), self.W_g(to_rows(global_)), self.W_ea(to_rows(external))]
        if previous is None:
            shortcut = None
            joined = F.gelu(self.dowm_all_no_pre(self.norm_all_no_pre(torch.cat(parts, 1))))
        else:
            shortcut = carried(self.W_pre, previous)
            joined = F.gelu(self.dowm_all(self.norm_all(torch.cat([*parts, shortcut], 1))))
        gated = [
            to_rows(gate(maps, spatial, channel))
            for maps, spatial, channel in (
                (local, self.sa_l, self.ca_l),
                (global_, self.sa_g, self.ca_g),
                (external, self.sa_ea, self.ca_ea),
            )
        ]
        fused = self.norm_all_end(torch.cat([*gated, joined], 1))
        rows = self.branch(self.irmlp(to_maps(fused, height, width)), images)
        return to_maps(rows if shortcut is None else shortcut + rows, height, width)


def gate(maps: Tensor, spatial: SpatialGate, channel: ChannelGate) -> Tensor:
    """Weight the pixels of maps (N, C, H, W), then their channels."""
    maps = maps * spatial(maps)
    return maps * channel(maps)


class CAME(WindowedNetwork):
    """CAME, as HEMF's authors have it.

    Args:
        config: the network's configuration.
    """

    def __init__(self, config: CameConfig) -> None:
        super().__init__(config, LocalBlock, Fusion)
        self.basic_layers = nn.ModuleList(global_branch(config, GlobalBlock))
        self.ea = nn.ModuleList()
        for stage, wide in enumerate(config.stage_channels):
            step = nn.Conv2d(wide // 2, wide, 2, stride=2) if stage else nn.Conv2d(3, wide, 4, stride=4)
            self.ea.append(nn.Sequential(step, ExternalAttention(wide, config.memory_slots)))

    def features(self, images: Tensor) -> StageFeatures:
        """(N, 3, image_size, image_size), normalized → feature maps of every stage, (N, C * 2**(i-1), side, side)."""
        found = StageFeatures([], [], [], [])
        local, global_, external, fused = images, self.patch_embed(images), images, None
        for stage in range(STAGES):
            local = self.stages[stage](self.downsample_layers[stage](local))
            global_ = self.basic_layers[stage](global_)
            external = self.ea[stage](external)
            fused = self.get_submodule(f"fu{stage + 1}")(local, global_, external, fused)
            for maps, value in zip(found, (local, global_, external, fused), strict=True):
                maps.append(value)
        return found


def initialize(model: CAME) -> None:
    """Set the weights of two branches and the head as HiFuse's; memories are normal (0.001), the rest is PyTorch's."""
    initialize_branches(part for name, part in model.named_children() if name != "ea" and not name.startswith("fu"))
    for module in model.ea.modules():
        if isinstance(module, ExternalAttention):
            nn.init.normal_(module.mk.weight, std=MEMORY_STD)
            nn.init.normal_(module.mv.weight, std=MEMORY_STD)


def unused_tensors(config: CameConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors in a file of that code that take no part: spare norms, the other input's, duplicates."""
    unused = unused_in_blocks(config, tuple(f"basic_layers.{stage}" for stage in range(STAGES)))
    for stage, wide in enumerate(config.stage_channels, 1):
        if stage == 1:
            unused |= convnorm_shapes("fu1.W_pre", wide // 2, wide) | norm_shapes("fu1.norm_all", 4 * wide)
            unused |= convnorm_shapes("fu1.dowm_all", 4 * wide, wide)
        else:
            unused |= norm_shapes(f"fu{stage}.norm_all_no_pre", 3 * wide)
            unused |= convnorm_shapes(f"fu{stage}.dowm_all_no_pre", 3 * wide, wide)
    wide, slots = config.width, config.memory_slots
    return {
        **unused,
        f"{DUPLICATES}0.weight": (wide, 3, 4, 4),
        f"{DUPLICATES}0.bias": (wide,),
        **norm_shapes(f"{DUPLICATES}1.ln", wide),
        f"{DUPLICATES}1.mk.weight": (slots, wide),
        f"{DUPLICATES}1.mv.weight": (wide, slots),
    }


class CameFamily(WindowedFamily):
    """CAME, whose files hold the first external attention under two names."""

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """See `Family.convert`.

        Raises:
            BadInputError: the two differ, or anything `WindowedFamily.convert` raises.
        """
        converted, dropped = super().convert(state)
        for name in dropped:
            first = "ea.0." + name.removeprefix(DUPLICATES)
            if name.startswith(DUPLICATES) and first in state and not torch.equal(state[name], state[first]):
                raise BadInputError(f"{name} and {first} differ, where the network has one tensor by both names.")
        return converted, dropped


SIZES = by_name(
    CameConfig(),
    CameConfig(
        name="came-narrow",
        image_size=64,
        width=8,
        depths=(2, 1, 2, 2),
        head_channels=4,
        window=2,
        memory_slots=16,
    ),
)

FAMILY = CameFamily(
    name=CameConfig.FAMILY,
    title="CAME (Li et al., as in He et al. 2025, doi:10.7717/peerj-cs.3181)",
    config=CameConfig,
    sizes=SIZES,
    network=CAME,
    initialize=initialize,
    layout=Layout(
        marks=(r"basic_layers\.|EA_1\.|ea\.\d\.|fu[1-4]\.(W_ea|irmlp)\.",),
        roots=frozenset(
            ["downsample_layers", "stages", "patch_embed", "basic_layers", "conv_norm", "conv_head", "ea", "EA_1"]
            + [f"fu{stage}" for stage in range(1, STAGES + 1)]
        ),
        heads=("conv_head",),
        unused=unused_tensors,
        duplicates=(DUPLICATES,),
    ),
    recipe={"epochs": 100},
)
