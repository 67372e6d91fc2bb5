"""BiFormer (Zhu et al. 2023): windows attend to the few windows that a coarse product of window means chooses.

Names and shapes of the tensors are those of the authors' checkpoints, oddities included: `attn.qkv.qkv` in the routing
attentions, `attn.wo` there but `attn.proj` in the last stage, and gaps in the numbers of `downsample_layers` and `mlp`
where layers have no tensors.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hemf_export.files.errors import BadInputError
from hemf_export.networks.channel_layers import fold_into_next, initialize_linears
from hemf_export.networks.configuration import LARGEST_SCORES, STAGES, StagedConfig, by_name
from hemf_export.networks.drop_path import ResidualBlock
from hemf_export.networks.layout import to_maps, to_rows
from hemf_export.networks.network import Family, Layout, Network, in_float32

ROUTED = 3  # stages with routing attention: all but the last
NORM_EPSILON = 1e-6  # of the layer norms; BatchNorms have PyTorch's 1e-5
LIMITS = {"head_channels": 256, "last_heads": 64, "mlp_ratio": 8, "windows": 16}


@dataclass(frozen=True)
class BiFormerConfig(StagedConfig):
    """Everything that determines the tensors of a BiFormer, and its windows.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels, a multiple of 16 · `windows`: the maps of the routed
            stages are divided into windows.
        width: channels C of stage 1, an even number; stage i has C * 2**(i - 1).
        depths: blocks of each of the four stages.
        head_channels: channels of a head in stages 1 to 3.
        last_heads: heads in stage 4.
        mlp_ratio: hidden channels of an MLP, as a multiple of the stage's.
        windows: windows along the height, and along the width, of a map.
        chosen: windows that each window attends to, in stages 1 to 3.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = "biformer"
    STRIDE: ClassVar[int] = 16
    LARGEST_WIDTH: ClassVar[int] = 512

    name: str = "biformer-base"
    width: int = 96
    depths: tuple[int, ...] = (4, 4, 18, 4)
    head_channels: int = 32
    last_heads: int = 8
    mlp_ratio: int = 3
    windows: int = 7
    chosen: tuple[int, ...] = (1, 4, 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in LIMITS.items():
            self.require_positive(name, limit)
        self.require_positive("chosen", self.windows**2)
        self.require_numbers("chosen", ROUTED)
        if self.width % 2 or self.width % self.head_channels:
            raise BadInputError(
                f"width must be even and a multiple of head_channels ({self.head_channels}), not {self.width}."
            )
        if self.stage_channels[-1] % self.last_heads:
            raise BadInputError(f"{self.stage_channels[-1]} channels don't split into {self.last_heads} heads.")
        step = 16 * self.windows
        if self.image_size % step:
            below = self.image_size // step * step
            raise BadInputError(
                f"image_size must be a multiple of {step} for {self.windows} windows along each side, "
                f"not {self.image_size}.",
                hint=f"The nearest are {below or step} and {below + step}.",
            )
        self.require_weights(4 + 2 * self.mlp_ratio)
        for stage, wide in enumerate(self.stage_channels):
            pixels = (self.image_size // (4 * 2**stage)) ** 2
            last = stage == ROUTED
            heads = self.last_heads if last else wide // self.head_channels
            attended = pixels if last else pixels * self.chosen[stage] // self.windows**2
            self.require_at_most(LARGEST_SCORES, heads * pixels * attended, "attention scores")


class JointProjection(nn.Module):
    """A Linear to queries, keys and values: (n, C) → (n, 3·C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, rows: Tensor) -> Tensor:
        joint: Tensor = self.qkv(rows)
        return joint


class RoutingAttention(nn.Module):
    """Bi-level routing attention, and a depthwise 5×5 convolution of the values ("lepe").

    A map is divided into P×P windows of L pixels. The means of the queries and of the keys over each window, multiplied
    with each other, say which K windows a window's queries attend to. The choice is computed in float32 and has no
    gradient. Of windows that are equally good, those with the lower number are chosen: by a stable sort in PyTorch, and
    by the definition of TopK in ONNX; NVIDIA's documentation of TensorRT's TopK says nothing of equal values. Scores
    are scaled by the number of all channels, not of a head's.

    Args:
        channels: C, kept.
        heads: number of heads, each with d contiguous channels.
        windows: P.
        chosen: K.
    """

    def __init__(self, channels: int, *, heads: int, windows: int, chosen: int) -> None:
        super().__init__()
        self.heads, self.windows, self.chosen = heads, windows, chosen
        self.scale = channels**-0.5
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.qkv = JointProjection(channels)
        self.wo = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, height: int, width: int) -> Tensor:
        """(N*H*W, C) → (N*H*W, C); H and W are multiples of P."""
        channels, count, heads = rows.shape[1], self.windows**2, self.heads
        pixels, depth = height * width // count, channels // heads
        query_rows, key_rows, value_rows = self.qkv(rows).split(channels, 1)
        query = self._in_windows(query_rows, height, width)
        key = self._in_windows(key_rows, height, width)
        value = self._in_windows(value_rows, height, width)

        places = self._places(self._choose(query, key))
        key, value = (_take(each.reshape(-1, count * heads, pixels * depth), places) for each in (key, value))
        key = key.reshape(-1, heads, self.chosen * pixels, depth)
        value = value.reshape(-1, heads, self.chosen * pixels, depth)
        query = query if self.scale == 1 else query * self.scale
        mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value

        mixed = mixed.reshape(-1, self.windows, heads, height // self.windows, width // self.windows, depth)
        joined = mixed.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels)
        return self.wo(joined + to_rows(self.lepe(to_maps(value_rows, height, width))))

    def _in_windows(self, rows: Tensor, height: int, width: int) -> Tensor:
        """(N*H*W, C) → (N*P*P, heads, L, d)."""
        depth = rows.shape[1] // self.heads
        down, across = height // self.windows, width // self.windows
        strips = rows.reshape(-1, down, self.windows, across, self.heads, depth).permute(0, 2, 4, 1, 3, 5)
        return strips.reshape(-1, self.heads, down * across, depth)

    def _choose(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys in windows, (N*P*P, heads, L, d) → numbers of the chosen windows (N, P*P, K)."""
        channels = query.shape[1] * query.shape[3]
        with torch.no_grad(), in_float32(query.device):
            query_means, key_means = (
                each.float().mean(2).reshape(-1, self.windows**2, channels) for each in (query, key)
            )
            scores = query_means @ key_means.transpose(1, 2)
            if torch.onnx.is_in_onnx_export():
                return scores.topk(self.chosen).indices  # ONNX defines that of equals the lower index comes first
            return scores.sort(stable=True, descending=True).indices[:, :, : self.chosen]  # topk leaves that open

    def _places(self, windows: Tensor) -> Tensor:
        """Numbers of windows (N, P*P, K) → of their heads, counted through an image's windows, (N, P*P*heads*K)."""
        heads = torch.arange(self.heads, device=windows.device)[:, None]
        return (windows[:, :, None] * self.heads + heads).reshape(-1, self.windows**2 * self.heads * self.chosen)


def _take(table: Tensor, places: Tensor) -> Tensor:
    """Take rows of each image's own table: (N, R, X), (N, S) → (N, S, X)."""
    _, rows, size = table.shape
    if torch.onnx.is_in_onnx_export():
        # ONNX's only operator that takes whole rows of each image's own table. PyTorch has none: its own way would
        # need the number of images in the graph, or indices for every single value.
        taken: Tensor = torch.onnx.ops.symbolic(
            "GatherND",
            (table, places[:, :, None]),
            {"batch_dims": 1},
            dtype=table.dtype,
            shape=(*places.shape, size),
        )
        return taken
    first = torch.arange(0, len(table) * rows, rows, device=table.device)[:, None]
    return table.reshape(-1, size).index_select(0, (places + first).flatten()).reshape(*places.shape, size)


class FullAttention(nn.Module):
    """Attention of all pixels of a map, and a depthwise 5×5 convolution of the attention's input ("lepe").

    Args:
        channels: C, kept.
        heads: number of heads.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, rows: Tensor, height: int, width: int) -> Tensor:
        """(N*H*W, C) → (N*H*W, C)."""
        channels = rows.shape[1]
        query, key, value = (
            each.reshape(-1, height * width, self.heads, channels // self.heads).transpose(1, 2)
            for each in self.qkv(rows).split(channels, 1)
        )
        query = query if self.scale == 1 else query * self.scale
        mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
        joined = mixed.transpose(1, 2).reshape(-1, channels)
        return self.proj(joined + to_rows(self.lepe(to_maps(rows, height, width))))


class Block(ResidualBlock):
    """A depthwise 3×3 convolution of the positions, an attention and an MLP, each added to its input.

    Args:
        channels: C, kept.
        attention: the attention, (N*H*W, C), H, W → (N*H*W, C).
        mlp_ratio: hidden channels of the MLP, as a multiple of C.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp_ratio: int) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.Identity(), nn.GELU(), nn.Linear(hidden, channels)
        )  # the identity keeps the authors' numbers

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        images, (height, width) = len(maps), maps.shape[2:]
        rows = to_rows(maps + self.pos_embed(maps))
        rows = rows + self.branch(self.attn(self.norm1(rows), height, width), images)
        rows = rows + self.branch(self.mlp(self.norm2(rows)), images)
        return to_maps(rows, height, width)


class BiFormer(Network):
    """BiFormer (Zhu et al., CVPR 2023, doi 10.1109/CVPR52729.2023.00995).

    Args:
        config: the network's configuration.
    """

    config: BiFormerConfig

    def __init__(self, config: BiFormerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.stage_channels
        half = channels[0] // 2
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(
                    *(_strided(3, half), nn.BatchNorm2d(half), nn.GELU()),
                    *(_strided(half, channels[0]), nn.BatchNorm2d(channels[0])),
                )
            ]
        )
        for before, after in itertools.pairwise(channels):
            self.downsample_layers.append(nn.Sequential(_strided(before, after), nn.BatchNorm2d(after)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(channels[stage], _attention(config, stage), config.mlp_ratio)
                    for _ in range(config.depths[stage])
                )
            )
            for stage in range(STAGES)
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], config.num_classes)

    @property
    def feature_layer(self) -> str:
        """See `Network.feature_layer`."""
        return f"stages.{STAGES - 1}"

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, image_size, image_size), normalized → the last maps of every stage, (N, C·2^(i-1), H, W)."""
        maps = [images]
        for step, stage in zip(self.downsample_layers, self.stages, strict=True):
            maps.append(stage(step(maps[-1])))
        return maps[1:]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalized → logits (N, num_classes)."""
        return self.classify(self.features(images)[-1])

    def classify(self, maps: Tensor) -> Tensor:
        """The last maps of stage 4, (N, C, H, W) → logits (N, num_classes)."""
        logits: Tensor = self.head(self.norm(maps).mean((2, 3)))
        return logits

    @torch.no_grad()
    def fold(self) -> None:
        """See `Network.fold`."""
        assert not self.training, "folding takes the running statistics"
        for module in self.modules():
            if isinstance(module, nn.Sequential):
                _fold_norms(module)
        for module in self.modules():
            if isinstance(module, RoutingAttention | FullAttention):
                _scale_queries(module)
        if isinstance(self.norm, nn.BatchNorm2d):
            fold_into_next(self.norm, self.head)
            self.norm = nn.Identity()  # type: ignore[assignment]


def _strided(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=2, padding=1)


def _attention(config: BiFormerConfig, stage: int) -> nn.Module:
    channels = config.stage_channels[stage]
    if stage == STAGES - 1:
        return FullAttention(channels, heads=config.last_heads)
    heads = channels // config.head_channels
    return RoutingAttention(channels, heads=heads, windows=config.windows, chosen=config.chosen[stage])


def _fold_norms(layers: nn.Sequential) -> None:
    """Fold each BatchNorm into the convolution before it, in place."""
    for place, (layer, norm) in enumerate(itertools.pairwise(layers)):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[place], layers[place + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()


def _scale_queries(attention: RoutingAttention | FullAttention) -> None:
    """Multiply the queries' part of the projection by the scale; a positive factor changes no choice of windows."""
    joint = attention.qkv.qkv if isinstance(attention, RoutingAttention) else attention.qkv
    for tensor in (joint.weight, joint.bias):
        if tensor is not None:
            tensor[: len(tensor) // 3] *= attention.scale
    attention.scale = 1.0


SIZES = by_name(
    BiFormerConfig(),
    BiFormerConfig(
        name="biformer-narrow", image_size=64, width=16, depths=(1, 1, 2, 1), head_channels=16, last_heads=2, windows=2,
        chosen=(1, 2, 3),
    ),
)  # fmt: skip

FAMILY = Family(
    name="biformer",
    title="BiFormer (Zhu et al. 2023, doi:10.1109/CVPR52729.2023.00995)",
    config=BiFormerConfig,
    sizes=SIZES,
    network=BiFormer,
    initialize=initialize_linears,
    layout=Layout(
        marks=(r"stages\.\d+\.\d+\.attn\.lepe\.", r"downsample_layers\.|stages\.\d+\.\d+\.pos_embed\."),
        roots=frozenset({"downsample_layers", "stages", "norm", "head"}),
    ),
    recipe={"drop_path": 0.1},
)
