"""Weight initialization as in the authors' code.

In the branches and the head, weights are truncated normal, cut at ±2, with a standard deviation of 0.02 for Linears and
0.2 for convolutions; biases are 0. The fusion blocks keep PyTorch's defaults, but for MHEA's memory: normal, 0.001.
"""

from __future__ import annotations

from torch import nn

from hemf_export.networks.hemf.local_branch import PatchProjection
from hemf_export.networks.hemf.mixed_attention import MHEA
from hemf_export.networks.hemf.model import HEMF

CONVOLUTION_STD = 0.2
LINEAR_STD = 0.02
MEMORY_STD = 0.001
CUT = 2.0  # absolute, not in standard deviations


def initialize(model: HEMF) -> None:
    """Set every weight of `model` in place, from torch's global generator."""
    strided = {module.projection for module in model.modules() if isinstance(module, PatchProjection)}
    for branch in (model.local_steps, model.local_stages, model.global_steps, model.global_stages, model.head):
        for module in branch.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # The projection of patches is a strided convolution that is implemented as a Linear.
                std = CONVOLUTION_STD if isinstance(module, nn.Conv2d) or module in strided else LINEAR_STD
                nn.init.trunc_normal_(module.weight, std=std, a=-CUT, b=CUT)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    for module in model.fusion_stages.modules():
        if isinstance(module, MHEA):
            nn.init.normal_(module.memory_key.weight, std=MEMORY_STD)
            nn.init.normal_(module.memory_value.weight, std=MEMORY_STD)
