"""Folding of BatchNorms and constant scales into the adjacent products, for inference."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from hemf_export.networks.channel_layers import fold_into_next
from hemf_export.networks.hemf.fusion import IRMLP, SIRMLP, NormalizedProjection
from hemf_export.networks.hemf.global_branch import Retention


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Fold BatchNorms and constant scales into the adjacent products of `model`, in place.

    The model must be in evaluation mode, and is for inference only afterwards: training needs the plain parameters.
    """
    assert not model.training, "folding takes the running statistics"
    for module in model.modules():
        if isinstance(module, NormalizedProjection):
            module.projection = fuse_linear_bn_eval(module.projection, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, SIRMLP | IRMLP):
            fold_into_next(module.convolution_norm, module.expand)
            module.reduce = fuse_linear_bn_eval(module.reduce, module.reduce_norm)
            module.convolution_norm = module.reduce_norm = nn.Identity()  # type: ignore[assignment]
            if isinstance(module, SIRMLP):
                module.squeeze = fuse_linear_bn_eval(module.squeeze, module.squeeze_norm)
                module.squeeze_norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, Retention):
            module.key.weight.mul_(module.scale)
            module.key.bias.mul_(module.scale)
            module.scale = 1.0
