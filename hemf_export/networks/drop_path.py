"""Stochastic depth (drop path): in training, residual branches are dropped for randomly chosen images.

Huang et al. 2016, "Deep Networks with Stochastic Depth"; kept branches are scaled up, so that evaluation needs no
change. For training only: not part of a configuration, a checkpoint or an exported graph.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Base of blocks with residual branches, which are all kept unless `set_drop_path` sets rates.

    Args:
        layers: number of layers with a rate each.
    """

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers
        self.drop_rates: tuple[float, ...] = ()  # by layer; empty for none

    def branch(self, rows: Tensor, images: int, layer: int = 0) -> Tensor:
        """Apply drop path to a residual branch (N*H*W, C): in training, 0 for images drawn with the layer's rate.

        Draws from the device's generator, and only where the rate is not 0.
        """
        if not self.training or not self.drop_rates or not self.drop_rates[layer]:
            return rows
        kept = 1 - self.drop_rates[layer]
        mask = rows.new_empty(images, 1, 1).bernoulli_(kept) / kept
        return (rows.reshape(images, -1, rows.shape[1]) * mask).reshape(rows.shape)


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Set the rates of all residual blocks: from 0 to `rate`, linearly with depth, in each branch of the network.

    The blocks of one type form a branch, in order of depth. The two residuals of an EGF layer share a rate.

    Args:
        model: a HEMF, or parts of one.
        rate: rate of the deepest layer, at least 0 and less than 1; 0 turns drop path off.
    """
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for _, group in itertools.groupby(sorted(blocks, key=lambda block: type(block).__name__), key=type):
        branch = list(group)
        layers = sum(block.layers for block in branch)
        rates = [rate * layer / max(1, layers - 1) for layer in range(layers)]
        for block in branch:
            block.drop_rates = tuple(rates[: block.layers]) if rate else ()
            del rates[: block.layers]
