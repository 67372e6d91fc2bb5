"""A network of timm (https://pypi.org/project/timm/), for `--model timm_models:convnext_nano`."""

import timm
from torch import nn


def convnext_nano(num_classes: int) -> nn.Module:
    """Build the network without timm's weights, which a checkpoint replaces; `train --init FILE` starts from them."""
    return timm.create_model("convnext_nano", pretrained=False, num_classes=num_classes)
