"""A network of one's own: a plain ResNet, as an example of what `--model my_models:resnet` takes."""

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(maps)).relu()
        return (self.norm2(self.conv2(inner)) + self.shortcut(maps)).relu()


class ResNet(nn.Module):
    """Images (N, 3, H, W) → logits (N, classes)."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            *(Block(width * 2 ** max(0, stage - 1), width * 2**stage, 1 + (stage > 0)) for stage in range(4))
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(self.stem(images))
        return self.head(self.dropout(maps.mean((2, 3))))


def resnet(num_classes: int) -> nn.Module:
    """Build the network; hemf-export calls this with nothing but `num_classes`."""
    return ResNet(num_classes)
