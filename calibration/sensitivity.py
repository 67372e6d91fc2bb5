"""How much each block suffers from int8: quantized alone, and left out alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from calibration.agreement import Comparison
from calibration.products import Product
from calibration.thresholds import Method
from calibration.trials import Trials


@dataclass(frozen=True)
class BlockSensitivity:
    """One block in int8.

    Args:
        block: its name.
        products: its quantizable products.
        share: of the graph's multiply-adds that they are.
        alone: the graph with this block in int8 and nothing else.
        left_out: the graph with everything in int8 but this block; None where nobody asked.
    """

    block: str
    products: tuple[Product, ...]
    share: float
    alone: Comparison
    left_out: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        values = {
            "block": self.block,
            "products": [product.node for product in self.products],
            "share_of_multiply_adds": self.share,
            "alone": self.alone.to_dict(),
        }
        return values if self.left_out is None else {**values, "left_out": self.left_out.to_dict()}


def by_block(products: Sequence[Product]) -> dict[str, tuple[Product, ...]]:
    """Quantizable products by block, in graph order."""
    names = dict.fromkeys(product.block for product in products if product.refusal is None)
    return {
        name: tuple(product for product in products if product.block == name and product.refusal is None)
        for name in names
    }


def measure(
    trials: Trials,
    products: Sequence[Product],
    method: Method,
    *,
    left_out: bool = True,
    listener: Callable[[BlockSensitivity], None] = lambda found: None,
) -> list[BlockSensitivity]:
    """Every block alone, and everything but it, on the trials' images.

    Args:
        trials: of the float32 model.
        products: all of the graph; those with a refusal count as work only.
        method: of the ranges.
        left_out: whether the graph without the block is measured, too.
        listener: told each block as it is done.
    """
    work = sum(product.multiply_adds for product in products) or 1
    groups = by_block(products)
    everything = [product for group in groups.values() for product in group]
    found = []
    for block, group in groups.items():
        rest = [product for product in everything if product.block != block]
        found.append(
            BlockSensitivity(
                block=block,
                products=group,
                share=sum(product.multiply_adds for product in group) / work,
                alone=trials.compare(group, method),
                left_out=trials.compare(rest, method) if left_out else None,
            )
        )
        listener(found[-1])
    return found
