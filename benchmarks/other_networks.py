"""Other published architectures, in plain torch with random weights, to test what must hold for any network.

    python -m benchmarks.other_networks FOLDER [--precision fp32|fp16] [--only resnet-50,…]

writes an ONNX file of each with a dynamic batch into FOLDER, for `python -m benchmarks.file_census`. Written from the
papers, with only what determines the kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import published_networks as published
from benchmarks.engine_model import exported
from benchmarks.published_networks import CLASSES


def conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    """Convolution, BatchNorm and an activation."""
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([] if act is None else [act]))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int, inner: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), inner, nn.Conv2d(squeezed, channels, 1), outer
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Around(nn.Module):
    """Residual connection around a body, if the shapes agree, or through `shortcut`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.shortcut(x) + self.body(x))


def mobile(
    cin: int, cout: int, wide: int, kernel: int, stride: int, squeezed: int, act: nn.Module, gate: nn.Module
) -> nn.Module:  # fmt: skip
    """Build the block of MobileNetV3 and EfficientNet; `squeezed` 0 for no gate."""
    body = nn.Sequential(
        *([conv(cin, wide, 1, act=act)] if wide != cin else []), conv(wide, wide, kernel, stride, wide, act),
        *([Gate(wide, squeezed, nn.ReLU() if isinstance(gate, nn.Hardsigmoid) else act, gate)] if squeezed else []),
        conv(wide, cout, 1),
    )  # fmt: skip
    return Around(body) if stride == 1 and cin == cout else body


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Large; Howard et al. 2019, table 1."""
    rows = (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
        (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2),
        (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1),
    )  # fmt: skip
    layers, cin = [conv(3, 16, 3, 2, act=nn.Hardswish())], 16
    for kernel, wide, cout, gated, hard, stride in rows:
        act: nn.Module = nn.Hardswish() if hard else nn.ReLU()
        layers.append(mobile(cin, cout, wide, kernel, stride, wide // 4 * gated, act, nn.Hardsigmoid()))
        cin = cout
    head = [conv(160, 960, 1, act=nn.Hardswish()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, CLASSES))


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0; Tan and Le 2019, table 1."""
    rows = (
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )  # fmt: skip
    layers, cin = [conv(3, 32, 3, 2, act=nn.SiLU())], 32
    for expansion, kernel, stride, cout, depth in rows:
        for index in range(depth):
            step = stride if index == 0 else 1
            layers.append(mobile(cin, cout, cin * expansion, kernel, step, max(1, cin // 4), nn.SiLU(), nn.Sigmoid()))
            cin = cout
    head = [conv(320, 1280, 1, act=nn.SiLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, CLASSES))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7×7, then an MLP on rows, scaled by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))) * self.scale
        return x + rows.permute(0, 3, 1, 2)


def convnext_t() -> nn.Module:
    """ConvNeXt-T; Liu et al. 2022."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    channels = 96
    for stage, depth in enumerate((3, 3, 9, 3)):
        if stage:
            layers += [ChannelNorm(channels), nn.Conv2d(channels, 2 * channels, 2, 2)]
            channels *= 2
        layers += [ConvNextBlock(channels) for _ in range(depth)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(channels), nn.Linear(channels, CLASSES)
    )


def vit_s() -> nn.Module:
    """ViT-S/16; Touvron et al. 2021."""
    layers = (published.Block(384, 6) for _ in range(12))
    return nn.Sequential(published.Patches(384, 16, 197), *layers, published.Take(384, first=True))


class Dense(nn.Module):
    """Layer whose output is concatenated to its input."""

    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, 4 * growth, 1, bias=False), nn.BatchNorm2d(4 * growth),
            nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


def densenet121() -> nn.Module:
    """DenseNet-121; Huang et al. 2017."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(Dense(channels, 32))
            channels += 32
        if stage < 3:
            halved = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), halved, nn.AvgPool2d(2)]
            channels //= 2
    head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(channels, CLASSES))


def regnet_y_800mf() -> nn.Module:
    """RegNetY-800MF; Radosavovic et al. 2020."""
    layers, cin = [conv(3, 32, 3, 2, act=nn.ReLU())], 32
    for cout, depth in ((64, 1), (144, 3), (320, 8), (784, 2)):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            body = nn.Sequential(
                conv(cin, cout, 1, act=nn.ReLU()), conv(cout, cout, 3, stride, cout // 16, nn.ReLU()),
                Gate(cout, cin // 4, nn.ReLU(), nn.Sigmoid()), conv(cout, cout, 1),
            )  # fmt: skip
            layers.append(Around(body, conv(cin, cout, 1, stride) if index == 0 else None, nn.ReLU()))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, CLASSES))


def grey_cnn() -> nn.Module:
    """A plain CNN for images of one channel."""
    layers: list[nn.Module] = []
    cin = 1
    for cout in (32, 64, 128, 256):
        layers += [conv(cin, cout, 3, act=nn.ReLU()), conv(cout, cout, 3, act=nn.ReLU()), nn.MaxPool2d(2)]
        cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, 2))


class MixerBlock(nn.Module):
    """An MLP over the tokens, then one over the channels."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(tokens, channels // 2), nn.GELU(), nn.Linear(channels // 2, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.second(x))


def mixer_s16() -> nn.Module:
    """MLP-Mixer-S/16; Tolstikhin et al. 2021."""
    layers = (MixerBlock(196, 512) for _ in range(8))
    return nn.Sequential(published.Patches(512, 16), *layers, published.Take(512, first=False))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet-50": published.resnet50, "mobilenet-v3": mobilenet_v3, "efficientnet-b0": efficientnet_b0,
    "convnext-t": convnext_t, "vit-s": vit_s, "swin-t": published.swin_t, "densenet-121": densenet121,
    "regnet-y-800mf": regnet_y_800mf, "grey-cnn": grey_cnn, "mixer-s16": mixer_s16,
}  # fmt: skip


def main() -> None:
    """Export them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--only", default=",".join(NETWORKS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kind = {"fp32": torch.float32, "fp16": torch.float16}[arguments.precision]
    for name in arguments.only.split(","):
        torch.manual_seed(0)
        network = NETWORKS[name]()
        channels = 1 if name == "grey-cnn" else 3
        path = arguments.folder / f"{name}{'.fp16' if kind == torch.float16 else ''}.onnx"
        path.write_bytes(exported(network, channels=channels, kind=kind))
        print(f"{path}: {sum(value.numel() for value in network.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
