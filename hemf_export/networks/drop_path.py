"""Stochastic depth (drop path): in training, residual branches are dropped for randomly chosen images.

Huang et al. 2016, "Deep Networks with Stochastic Depth"; kept branches are scaled up, so that evaluation needs no
change. For training only: not part of a configuration, a checkpoint or an exported graph.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Base of blocks with residual branches, which are all kept unless `set_drop_path` sets rates.

    Blocks of several types that follow each other in one branch of the network share a `chain`.

    Args:
        layers: number of layers with a rate each.
    """

    chain = ""  # by default the name of the type

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

    def drop(self, branch: Tensor, layer: int = 0) -> Tensor:
        """Apply drop path to a residual branch of any shape whose first axis is the image; see `branch`."""
        if not self.training or not self.drop_rates or not self.drop_rates[layer]:
            return branch
        kept = 1 - self.drop_rates[layer]
        return branch * (branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(kept) / kept)


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Set the rates of all residual blocks: from 0 to `rate`, linearly with depth, in each branch of the network.

    The blocks of one type, or of one `chain`, form a branch, in order of depth. The two residuals of an EGF layer share
    a rate.

    Args:
        model: a network, or parts of one.
        rate: rate of the deepest layer, at least 0 and less than 1; 0 turns drop path off.
    """
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for _, group in itertools.groupby(sorted(blocks, key=_chain), key=_chain):
        branch = list(group)
        layers = sum(block.layers for block in branch)
        rates = [rate * layer / max(1, layers - 1) for layer in range(layers)]
        for block in branch:
            block.drop_rates = tuple(rates[: block.layers]) if rate else ()
            del rates[: block.layers]


def _chain(block: ResidualBlock) -> str:
    return block.chain or type(block).__name__
