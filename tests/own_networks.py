"""Networks as users write them: factories by the name of what is odd about each, all of small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 32
CHANNELS = 8


class Small(nn.Module):
    """A convolution of 4 x 4 patches and a linear layer, which others vary."""

    def __init__(self, num_classes: int, features: int = CHANNELS) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 4, 4)
        self.fc = nn.Linear(features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.patches(images).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


class Normed(Small):
    """BatchNorms before and behind a convolution, alone, and behind linear layers; dropout; grouped convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.before = nn.BatchNorm2d(3)
        self.grouped = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=4, bias=False)
        self.behind = nn.BatchNorm2d(CHANNELS)
        self.alone = nn.BatchNorm1d(CHANNELS)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.BatchNorm1d(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.behind(self.grouped(self.features(self.before(images)))).relu()
        return self.last(self.fc(self.dropout(self.alone(maps.mean((2, 3))))))


class OtherNorms(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norms = nn.Sequential(
            nn.GroupNorm(2, CHANNELS), nn.InstanceNorm2d(CHANNELS, affine=True), nn.LayerNorm([CHANNELS, 8, 8]),
            nn.LocalResponseNorm(3),
        )  # fmt: skip
        self.rms = nn.RMSNorm(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.rms(self.norms(self.patches(images)).mean((2, 3))))


class ViewBySize(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, features=64 * CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        return self.fc(maps.view(maps.size(0), -1))


class ViewByFeatures(ViewBySize):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).view(-1, 64 * CHANNELS))


class Flattened(ViewBySize):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.features(images), 1))


class ContiguousAlone(Flattened):
    """It prints, and says with a word of its own that it takes no other memory."""

    def forward(self, images: Tensor) -> Tensor:
        print("it runs")  # noqa: T201
        if not images.is_contiguous():
            raise ValueError("contiguous images are needed")
        return super().forward(images)


class Prototypes(Small):
    """Its classifier is a parameter of the network itself."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(1)
        self.fc = nn.Identity()
        self.prototypes = nn.Parameter(torch.ones(num_classes, CHANNELS))

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3)) @ self.prototypes.T


class ClassToken(Small):
    """A transformer's layer over patches and a class token, which is expanded by the batch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], 1)
        inner = self.norm(tokens)
        return self.fc((tokens + self.attention(inner, inner, inner, need_weights=False)[0])[:, 0])


class SizedByBatch(Small):
    def forward(self, images: Tensor) -> Tensor:
        rows = self.features(images).mean((2, 3))
        return self.fc(rows * torch.full((rows.shape[0], 1), 0.5) / rows.shape[0])


class Bias(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows + torch.ones(int(rows.shape[0]), CHANNELS)


class BatchInCode(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bias = Bias()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.bias(self.features(images).mean((2, 3))))


class Gate(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2 if rows.sum() > 0 else rows


class Branching(BatchInCode):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bias = Gate()


class Unused(Small):
    """Has a layer that takes no part."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.auxiliary = nn.Linear(CHANNELS, num_classes)


class ReturnsTuple(Small):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return logits, logits


class Output(dict):
    logits: Tensor


class ReturnsOutput(Small):
    def forward(self, images: Tensor) -> Output:
        output = Output()
        output.logits = super().forward(images)
        return output


class TupleInTraining(Small):
    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class FeatureMap(Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


class Noisy(Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.dropout(self.features(images).mean((2, 3)), 0.5))


class Grey(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.patches = nn.Conv2d(1, CHANNELS, 4, 4)


class OneSize(Small):
    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-1] == SIZE, f"images of {SIZE} pixels alone"
        return super().forward(images)


class Frozen(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class NotANumber(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.constant_(self.fc.bias, float("nan"))


class Elsewhere(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc = nn.Linear(CHANNELS, num_classes, device="meta")


def small(num_classes: int) -> nn.Module:
    return Small(num_classes)


def scripted(num_classes: int) -> nn.Module:
    """All of it in one Sequential, whose tensors' names begin with numbers."""
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def wrapped(num_classes: int) -> nn.Module:
    """A network within another's attribute, `model.`, as wrappers call it too."""
    outer = nn.Module()
    outer.model = Small(num_classes)  # type: ignore[assignment]
    outer.forward = outer.model.forward  # type: ignore[method-assign]
    return outer


def seven(num_classes: int) -> nn.Module:
    return Small(7)


def raises(num_classes: int) -> nn.Module:
    raise RuntimeError(f"no weights for {num_classes} classes")


def leaves(num_classes: int) -> nn.Module:
    raise SystemExit(5)


def double(num_classes: int) -> nn.Module:
    return Small(num_classes).double()


def half(num_classes: int) -> nn.Module:
    return Small(num_classes).half()


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def nothing(num_classes: int) -> None:
    pass


def a_function(num_classes: int) -> object:
    return lambda images: images


def without_classes(depth: int = 18) -> nn.Module:
    return Small(depth)


def with_more(num_classes: int, depth: int) -> nn.Module:
    return Small(num_classes + depth)


def talkative(num_classes: int) -> nn.Module:
    print("a network of", num_classes)  # noqa: T201
    return Small(num_classes)


class Nested:
    small = Small


NUMBER = 3
