"""Count a network's parameters and multiply-adds, part by part and without allocating it.

Multiply-adds are counted in two ways. `products` are all matrix products and convolutions that a forward pass executes.
`layers` are those of convolutions and linear layers alone, as packages count that look at modules; what is left are the
products of activations with each other, in attention.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemf_export.networks.configuration import NetworkConfig


@dataclass
class Count:
    """Parameters, and multiply-adds for one image.

    Args:
        parameters: the network's parameters.
        paper_parameters: parameters as published counts have them: with those in the authors' file that take no part,
            or without layers that their counter doesn't know.
        paper: multiply-adds as published counts have them.
        products: multiply-adds of all products.
    """

    parameters: int = 0
    paper_parameters: int = 0
    paper: int = 0
    products: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def by_part(
    model: nn.Module, image_size: int, unused: int = 0, saved: Mapping[str, int] | None = None
) -> dict[str, Count]:  # fmt: skip
    """Count a network by its modules of the first level.

    Args:
        model: the network, in evaluation mode; on the meta device nothing is computed.
        image_size: height and width of its input in pixels.
        unused: parameters in the authors' file that take no part.
        saved: multiply-adds that the authors' code does and this network saves, by first module.

    Returns:
        Counts by part, in the order of execution, of inference. `paper` has the convolutions and linear layers of the
        authors' code alone, and `paper_parameters` the unused ones too, as a part of its own.
    """
    images = torch.empty(1, 3, image_size, image_size, device=next(model.parameters(), torch.empty(0)).device)
    counts: dict[str, Count] = defaultdict(Count)
    for name, parameter in model.named_parameters():
        own = parameter.numel()
        counts[name.split(".")[0]] += Count(own, own)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    counted = counter.get_flop_counts()
    whole = {key: value for key, value in counted.items() if key != "Global"}
    root = type(model).__name__
    for module, operations in whole.items():
        parts = module.split(".")
        above = (".".join(parts[:end]) for end in range(2, len(parts)))
        if len(parts) > 1 and parts[0] == root and not any(one in whole for one in above):
            counts[parts[1]] += _multiply_adds(operations)
    rest = _multiply_adds(counted["Global"])
    for part in counts.values():
        rest = Count(0, 0, rest.paper - part.paper, rest.products - part.products)
    if rest != Count():
        counts["forward"] += rest
    for name, more in (saved or {}).items():
        counts[name] += Count(paper=more)
    if unused:
        counts["unused in the authors' file"] += Count(0, unused)
    return dict(counts)


_LAYERS = frozenset({"convolution", "_convolution", "mm", "addmm"})  # operators of convolutions and linear layers


def _multiply_adds(operations: dict[Any, int]) -> Count:
    """Convert floating-point operations by operator, of which a multiply-add has two."""
    layers = sum(flops for operator, flops in operations.items() if operator.__name__.split(".")[0] in _LAYERS)
    return Count(paper=layers // 2, products=sum(operations.values()) // 2)


def count_parameters(network: Callable[[Any], nn.Module], config: NetworkConfig) -> int:
    """Count the parameters of a network."""
    with torch.device("meta"):
        return sum(math.prod(parameter.shape) for parameter in network(config).parameters())
