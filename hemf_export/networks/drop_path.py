"""Stochastic depth: in training, residual branches are left out for images drawn at random.

Huang et al. 2016, "Deep Networks with Stochastic Depth"; what is kept is scaled up, so that evaluation needs no
change. A matter of training: no part of a configuration, a checkpoint or an exported graph.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """A block whose residual branches are all kept, unless `set_drop_path` says otherwise.

    Args:
        layers: with a rate of their own.
    """

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers
        self.drop_rates: tuple[float, ...] = ()  # of each layer; empty: nothing is drawn

    def branch(self, rows: Tensor, images: int, layer: int = 0) -> Tensor:
        """What a residual branch adds: (N*H*W, C) → the same, in training 0 for images drawn with the layer's rate.

        Draws from torch's generator of the device, and only where the rate is not 0.
        """
        if not self.training or not self.drop_rates or not self.drop_rates[layer]:
            return rows
        kept = 1 - self.drop_rates[layer]
        mask = rows.new_empty(images, 1, 1).bernoulli_(kept) / kept
        return (rows.reshape(images, -1, rows.shape[1]) * mask).reshape(rows.shape)


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Set the rates of all residual blocks: from 0 to `rate`, linearly with depth, in each branch of the network.

    Blocks of one kind make up a branch; they come in the order of depth. The two residuals of an EGF layer have one
    rate.

    Args:
        model: a HEMF, or parts of one.
        rate: of the deepest layer, at least 0 and less than 1; 0 takes all rates away.
    """
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for _, group in itertools.groupby(sorted(blocks, key=lambda block: type(block).__name__), key=type):
        branch = list(group)
        layers = sum(block.layers for block in branch)
        rates = [rate * layer / max(1, layers - 1) for layer in range(layers)]
        for block in branch:
            block.drop_rates = tuple(rates[: block.layers]) if rate else ()
            del rates[: block.layers]
