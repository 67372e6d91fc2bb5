"""HiFuse (Huo et al. 2024, arXiv:2209.10218): a convolutional and a window attention branch, fused.

Names and shapes of the tensors are those of the authors' code: `stages` is the local branch, `layers1` to `layers4` are
the global one, `fu1` to `fu4` fuse them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import (
    MapNorm,
    PatchEmbedding,
    Pointwise,
    fold_into_next,
)
from hemf_export.networks.configuration import STAGES, StagedConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Family, Layout, Network
from hemf_export.networks.window_attention import (
    PatchMerging,
    WindowAttention,
    Windows,
    check_windows,
    relative_position_index,
)

NORM_EPSILON = 1e-6  # of all layer norms but those of the global branch, which have 1e-5
EXPANSION = 4  # width of an IRMLP's hidden layer, as a multiple of its input's
REDUCTION, LEAST_SQUEEZED = 16, 4  # of the channels in a channel gate, which no published size has fewer of than 6
CONVOLUTION_STD, LINEAR_STD = 0.2, 0.02  # of the initial weights of branches and head
LARGEST_WINDOW = 8
LARGEST_BIASES = 100_000_000  # values of all attention biases


class StageFeatures(NamedTuple):
    """Feature maps of stages 1 to 4, by branch."""

    local: list[Tensor]
    global_: list[Tensor]
    fused: list[Tensor]


@dataclass(frozen=True)
class WindowedConfig(StagedConfig):
    """Everything that determines the tensors of a network with a branch of window attention in four stages.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels, a multiple of 32·`window`.
        width: channels C of stage 1; stage i has C * 2**(i - 1).
        depths: number of local blocks, and of global blocks, in each of the four stages.
        head_channels: channels of an attention head, of which `width` is a multiple.
        window: height and width of an attention window in pixels of the map.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    INPUTS: ClassVar[int] = 3  # maps of C channels that enter the IRMLP of a fusion block
    MOST_WEIGHTS: ClassVar[int] = 2_000_000_000

    width: int = 96
    head_channels: int = 32
    window: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("head_channels", self.LARGEST_WIDTH)
        self.require_positive("window", LARGEST_WINDOW)
        if self.window < 2:
            raise BadInputError("window must be at least 2: one pixel alone has nothing to attend to.")
        if self.width % self.head_channels:
            raise BadInputError(f"width must be a multiple of head_channels, {self.head_channels}, not {self.width}.")
        check_windows(self.image_size, self.window, self.stage_heads, self.depths, LARGEST_BIASES)
        dense = 9 * self.INPUTS**2
        self.require_weights(dense, dense + EXPANSION * self.INPUTS * (self.INPUTS + 1))

    @property
    def stage_sides(self) -> tuple[int, ...]:
        """Height and width in pixels of the maps of stages 1 to 4."""
        return tuple(self.image_size // (4 * 2**stage) for stage in range(STAGES))

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of stages 1 to 4."""
        return tuple(channels // self.head_channels for channels in self.stage_channels)


@dataclass(frozen=True)
class HiFuseConfig(WindowedConfig):
    """Everything that determines the tensors of a HiFuse; its fields are those of `WindowedConfig`."""

    FAMILY: ClassVar[str] = "hifuse"

    name: str = "hifuse-tiny"


class LocalBlock(ResidualBlock):
    """Block of the local branch: x + GELU(Linear(LN(depthwise 3×3(x)))).

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.pwconv = nn.Linear(channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        rows = F.gelu(self.pwconv(self.norm(to_rows(self.dwconv(maps)))))
        return to_maps(to_rows(maps) + self.branch(rows, len(maps)), *maps.shape[2:])


class GlobalBlock(ResidualBlock):
    """Block of the global branch: x + GELU(Linear(window attention(LN(x)))), on tokens.

    Args:
        channels: C, kept.
        heads: number of attention heads.
        windows: its windows.
    """

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, windows)
        self.fc1 = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, images: int) -> Tensor:
        """(N*H*W, C) → (N*H*W, C), where N = `images`."""
        return rows + self.branch(F.gelu(self.fc1(self.attn(self.norm1(rows)))), images)


class GlobalStage(nn.Module):
    """A stage of the global branch: patch merging, from stage 2 on, and blocks whose windows shift in every other one.

    Args:
        block: builds a block from channels, heads and windows.
        channels: C of the stage.
        depth: number of blocks.
        heads: number of attention heads.
        side: height and width of the stage's map in pixels.
        window: height and width of a window.
        merging: whether the input is a map of C/2 channels and twice the side.
    """

    def __init__(
        self,
        block: Callable[[int, int, Windows], nn.Module],
        channels: int,
        depth: int,
        heads: int,
        side: int,
        window: int,
        *,
        merging: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            block(channels, heads, Windows(side, window, window // 2 if index % 2 else 0)) for index in range(depth)
        )
        self.downsample = PatchMerging(channels // 2, 2 * side) if merging else None
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the previous stage, or those of the patch embedding → (N, C, H, W)."""
        rows = to_rows(maps)
        if self.downsample is not None:
            rows = self.downsample(rows)
        for block in self.blocks:
            rows = block(rows, len(maps))
        return to_maps(rows, self.side, self.side)


class ConvNorm(nn.Module):
    """A 1×1 convolution and a BatchNorm, on rows: (rows, in) → (rows, out).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether the convolution has one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = Pointwise(in_channels, out_channels, bias=bias)
        self.bn: nn.Module = nn.BatchNorm1d(out_channels)

    def forward(self, rows: Tensor) -> Tensor:
        return self.bn(self.conv(rows))

    def fold(self) -> None:
        """Fold the BatchNorm into the convolution, in place."""
        if isinstance(self.bn, nn.BatchNorm1d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class Bare(nn.Module):
    """A convolution without bias by the name `conv`.

    Args:
        conv: the convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv: nn.Module = conv

    def forward(self, values: Tensor) -> Tensor:
        return self.conv(values)


class IRMLP(nn.Module):
    """Inverted residual MLP: z = BN(GELU(3×3(y)) + y), then BN(1×1(GELU(1×1(z)))); (N, wide, H, W) → rows (N*H*W, C).

    The 3×3 convolution is dense, although it was published as depthwise, because the authors' checkpoints have it so.

    Args:
        wide: channels of the input.
        channels: C.
    """

    def __init__(self, wide: int, channels: int) -> None:
        super().__init__()
        self.conv1 = Bare(nn.Conv2d(wide, wide, 3, padding=1, bias=False))
        self.bn1: nn.Module = nn.BatchNorm1d(wide)
        self.conv2 = Bare(Pointwise(wide, EXPANSION * wide, bias=False))
        self.conv3 = ConvNorm(EXPANSION * wide, channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        mixed = self.bn1(to_rows(F.gelu(self.conv1(maps)) + maps))
        return self.conv3(F.gelu(self.conv2(mixed)))

    def fold(self) -> None:
        """Fold the first BatchNorm into the product behind it, and the second into that before it, in place."""
        if isinstance(self.bn1, nn.BatchNorm1d):
            fold_into_next(self.bn1, self.conv2.conv)
            self.bn1 = nn.Identity()
        self.conv3.fold()


class SpatialGate(nn.Module):
    """A factor for each pixel: σ(BN(7×7[maximum, mean over channels])); (N, C, H, W) → (N, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(1)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = torch.cat([maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)], 1)
        gate: Tensor = self.bn(self.conv(pooled)).sigmoid()
        return gate

    def fold(self) -> None:
        """Fold the BatchNorm into the convolution, in place."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class ChannelGate(nn.Sequential):
    """A factor for each channel: σ(se(maximum) + se(mean)) over pixels, se: C→C/16, ReLU, C/16→C, both without bias.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        squeezed = max(LEAST_SQUEEZED, channels // REDUCTION)
        super().__init__(
            Pointwise(channels, squeezed, bias=False), nn.ReLU(), Pointwise(squeezed, channels, bias=False)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, 1, 1)."""
        return channel_gate(self[0], self[2], maps)


def channel_gate(squeeze: nn.Module, excite: nn.Module, maps: Tensor) -> Tensor:
    """Compute σ(excite(ReLU(squeeze(maximum))) + excite(ReLU(squeeze(mean)))), over the pixels of (N, C, H, W).

    As `excite` has no bias, it takes the sum.

    Returns:
        (N, C, 1, 1)
    """
    squeezed = squeeze(maps.amax((2, 3))).relu() + squeeze(maps.mean((2, 3))).relu()
    gate: Tensor = excite(squeezed).sigmoid()
    return gate[:, :, None, None]


class Fusion(ResidualBlock):
    """Fusion of a local and a global map and, from stage 2 on, the previous fused one, which is its shortcut.

    Args:
        channels: C of both maps and the output; a previous output has C/2.
        previous: whether a previous output is fused too.
    """

    def __init__(self, channels: int, previous: bool) -> None:
        super().__init__()
        self.se = ChannelGate(channels)
        self.spatial = SpatialGate()
        self.W_l = ConvNorm(channels, channels)
        self.W_g = ConvNorm(channels, channels)
        self.norm3 = nn.LayerNorm(3 * channels, eps=NORM_EPSILON)
        self.residual = IRMLP(3 * channels, channels)
        if previous:
            self.Updim = ConvNorm(channels // 2, channels)
            self.norm1 = nn.LayerNorm(3 * channels, eps=NORM_EPSILON)
            self.W3 = ConvNorm(3 * channels, channels)
        else:
            self.norm2 = nn.LayerNorm(2 * channels, eps=NORM_EPSILON)
            self.W = ConvNorm(2 * channels, channels)

    def forward(self, local: Tensor, global_: Tensor, previous: Tensor | None) -> Tensor:
        """Two maps (N, C, H, W), and (N, C/2, 2H, 2W) or None → (N, C, H, W)."""
        images, _, height, width = local.shape
        parts = [self.W_l(to_rows(local)), self.W_g(to_rows(global_))]
        if previous is None:
            shortcut = None
            joined = F.gelu(self.W(self.norm2(torch.cat(parts, 1))))
        else:
            shortcut = carried(self.Updim, previous)
            joined = F.gelu(self.W3(self.norm1(torch.cat([shortcut, *parts], 1))))
        gated = [to_rows(global_ * self.se(global_)), to_rows(local * self.spatial(local)), joined]
        fused = self.norm3(torch.cat(gated, 1))
        rows = self.branch(self.residual(to_maps(fused, height, width)), images)
        return to_maps(rows if shortcut is None else shortcut + rows, height, width)


def carried(projection: ConvNorm, previous: Tensor) -> Tensor:
    """Bring the previous fused map to this stage's size: ReLU(BN(1×1)), then 2×2 average pooling.

    Returns:
        rows (N*H*W, C), for a map (N, C/2, 2H, 2W)
    """
    projected = projection(to_rows(previous)).relu()
    return to_rows(F.avg_pool2d(to_maps(projected, *previous.shape[2:]), 2))


class WindowedNetwork(Network):
    """Base of networks with a local branch, a branch of window attention, and fused maps, which the head classifies.

    Args:
        config: the network's configuration.
        local: builds a block of the local branch from its channels.
        fusion: builds what fuses a stage's maps, from its channels and whether there is a previous stage.
    """

    def __init__(
        self, config: WindowedConfig, local: Callable[[int], nn.Module], fusion: Callable[[int, bool], nn.Module]
    ) -> None:  # fmt: skip
        super().__init__()
        self.config: WindowedConfig = config
        channels = config.stage_channels
        self.downsample_layers, self.stages = local_branch(config, local)
        self.patch_embed = PatchEmbedding(3, channels[0], 4)
        for stage in range(1, STAGES + 1):
            self.add_module(f"fu{stage}", fusion(channels[stage - 1], stage > 1))
        self.conv_norm = nn.LayerNorm(channels[-1], eps=NORM_EPSILON)
        self.conv_head = nn.Linear(channels[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        return f"fu{STAGES}"

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """(N, 3, image_size, image_size), normalized → feature maps by branch, `fused` among them, of every stage."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        logits: Tensor = self.conv_head(self.conv_norm(self.features(images).fused[-1].mean((2, 3))))
        return logits

    def fold(self) -> None:
        """See `Network.fold`: BatchNorms, attention biases and scales, the order in which patches are merged."""
        assert not self.training
        for module in list(self.modules()):
            if isinstance(module, ConvNorm | IRMLP | SpatialGate | WindowAttention | PatchMerging):
                module.fold()


class HiFuse(WindowedNetwork):
    """HiFuse (Huo et al., "HiFuse: Hierarchical multi-scale feature fusion network for medical image classification").

    Args:
        config: the network's configuration.
    """

    def __init__(self, config: HiFuseConfig) -> None:
        super().__init__(config, LocalBlock, Fusion)
        for stage, layers in enumerate(global_branch(config, GlobalBlock), 1):
            self.add_module(f"layers{stage}", layers)

    def features(self, images: Tensor) -> StageFeatures:
        """(N, 3, image_size, image_size), normalized → feature maps of every stage, (N, C * 2**(i-1), side, side)."""
        found = StageFeatures([], [], [])
        local, global_, fused = images, self.patch_embed(images), None
        for stage in range(STAGES):
            local = self.stages[stage](self.downsample_layers[stage](local))
            global_ = self.get_submodule(f"layers{stage + 1}")(global_)
            fused = self.get_submodule(f"fu{stage + 1}")(local, global_, fused)
            for maps, value in zip(found, (local, global_, fused), strict=True):
                maps.append(value)
        return found


def local_branch(config: WindowedConfig, block: Callable[[int], nn.Module]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Build what leads to each stage of the local branch, and the blocks of each stage."""
    channels = config.stage_channels
    downsample = [nn.Sequential(nn.Conv2d(3, channels[0], 4, stride=4), MapNorm(channels[0], eps=NORM_EPSILON))]
    for wide in channels[1:]:
        norm = MapNorm(wide // 2, eps=NORM_EPSILON)
        downsample.append(nn.Sequential(norm, nn.Conv2d(wide // 2, wide, 2, stride=2)))
    stages = [
        nn.Sequential(*(block(wide) for _ in range(depth))) for wide, depth in zip(channels, config.depths, strict=True)
    ]
    return nn.ModuleList(downsample), nn.ModuleList(stages)


def global_branch(config: WindowedConfig, block: Callable[[int, int, Windows], nn.Module]) -> list[GlobalStage]:
    """Build the stages of the global branch."""
    shapes = zip(config.stage_channels, config.depths, config.stage_heads, config.stage_sides, strict=True)
    return [GlobalStage(block, *shape, config.window, merging=stage > 0) for stage, shape in enumerate(shapes)]


def initialize(model: HiFuse) -> None:
    """Set the weights of branches and head in place; fusion blocks keep PyTorch's."""
    initialize_branches(part for name, part in model.named_children() if not name.startswith("fu"))


def initialize_branches(parts: Iterable[nn.Module]) -> None:
    """Set the weights of parts in place: truncated normal, cut at ±2, convolutions' 0.2, others 0.02; biases 0."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                std = CONVOLUTION_STD if isinstance(module, nn.Conv2d) else LINEAR_STD
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=LINEAR_STD)


def convnorm_shapes(name: str, in_channels: int, out_channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a ConvNorm, by name."""
    wide = (out_channels,)
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), wide)
    return {
        f"{name}.conv.weight": (out_channels, in_channels, 1, 1),
        f"{name}.conv.bias": wide,
        **{f"{name}.bn.{part}": shape for part, shape in norm.items()},
        f"{name}.bn.num_batches_tracked": (),
    }


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a layer norm, by name."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def unused_in_blocks(config: WindowedConfig, stages: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in the authors' global blocks that take no part, by name; `stages` are their names."""
    unused: dict[str, tuple[int, ...]] = {}
    for stage, channels, depth in zip(stages, config.stage_channels, config.depths, strict=True):
        for index in range(depth):
            block = f"{stage}.blocks.{index}"
            unused |= norm_shapes(f"{block}.norm2", channels)
            unused[f"{block}.attn.relative_position_index"] = (config.window**2, config.window**2)
    return unused


def unused_tensors(config: HiFuseConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors in the authors' file that take no part: spare norms and heads, and the other input's."""
    channels = config.stage_channels
    unused = unused_in_blocks(config, tuple(f"layers{stage}" for stage in range(1, STAGES + 1)))
    unused |= norm_shapes("norm", channels[-1])
    unused |= {"head.weight": (config.num_classes, channels[-1]), "head.bias": (config.num_classes,)}
    for stage, wide in enumerate(channels, 1):
        if stage == 1:
            unused |= convnorm_shapes("fu1.Updim", wide // 2, wide) | norm_shapes("fu1.norm1", 3 * wide)
            unused |= convnorm_shapes("fu1.W3", 3 * wide, wide)
        else:
            unused |= norm_shapes(f"fu{stage}.norm2", 2 * wide) | convnorm_shapes(f"fu{stage}.W", 2 * wide, wide)
    return unused


class WindowedFamily(Family):
    """A family with relative position indices in its authors' files, which must be those that windows have."""

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """See `Family.convert`.

        Raises:
            BadInputError: an index that isn't that of a window, or anything `Family.convert` raises.
        """
        converted, dropped = super().convert(state)
        config = self.infer(state)
        assert isinstance(config, WindowedConfig)
        expected = relative_position_index(config.window)
        for name in (one for one in dropped if one.endswith(".relative_position_index")):
            if state[name].shape != expected.shape or not torch.equal(state[name].long(), expected):
                raise BadInputError(f"{name} is not the index of relative positions in a window.")
        return converted, dropped


SIZES = by_name(
    HiFuseConfig(),
    HiFuseConfig(name="hifuse-small", depths=(2, 2, 6, 2)),
    HiFuseConfig(name="hifuse-base", depths=(2, 2, 18, 2)),
    HiFuseConfig(name="hifuse-narrow", image_size=64, width=8, depths=(2, 1, 3, 2), head_channels=4, window=2),
)

FAMILY = WindowedFamily(
    name=HiFuseConfig.FAMILY,
    title="HiFuse (Huo et al. 2024, arXiv:2209.10218)",
    config=HiFuseConfig,
    sizes=SIZES,
    network=HiFuse,
    initialize=initialize,
    layout=Layout(
        marks=(r"layers[1-4]\.(blocks|downsample)\.|fu[1-4]\.(se|spatial)\.",),
        roots=frozenset(
            ["downsample_layers", "stages", "conv_norm", "conv_head", "patch_embed", "norm", "head"]
            + [f"{part}{stage}" for part in ("layers", "fu") for stage in range(1, STAGES + 1)]
        ),
        heads=("conv_head",),
        unused=unused_tensors,
    ),
    recipe={"epochs": 100},
)
