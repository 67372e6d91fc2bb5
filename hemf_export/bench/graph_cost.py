"""What one call of a graph costs: multiply-adds and bytes of its kernels. How they are counted and what is assumed of
fusion, `hemf_export.bench.graph_counter` says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CostPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class NodeCost:
    """A node that multiplies and adds.

    Args:
        node: its name.
        operator: Conv, Gemm or MatMul.
        block: of the paper.
        multiply_adds: of one image.
        precision: that it multiplies in.
        moves: it is a signed permutation, which the equations don't count as a product, and the graph does.
    """

    node: str
    operator: str
    block: str
    multiply_adds: int
    precision: CostPrecision
    moves: bool


@dataclass
class Kernel:
    """Nodes that are assumed to be one kernel. Bytes and multiply-adds are of one image, weights of one call.

    Args:
        nodes: names.
        multiply_adds: by precision.
        weight_bytes: read once, whatever the batch.
        read_bytes: of activations.
        written_bytes: of activations.
    """

    nodes: list[str] = field(default_factory=list)
    multiply_adds: dict[CostPrecision, int] = field(default_factory=dict)
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class GraphCost:
    """What one call costs.

    Args:
        products: every node that multiplies and adds, in graph order.
        kernels: in graph order.
        weight_bytes: of all weights, each once.
        image_bytes: of the input and the logits of one image.
        uncounted: values whose size the graph doesn't tell; their bytes are missing.
    """

    products: tuple[NodeCost, ...]
    kernels: tuple[Kernel, ...]
    weight_bytes: int
    image_bytes: int
    uncounted: int

    @property
    def multiply_adds(self) -> int:
        """Of one image, all precisions."""
        return sum(product.multiply_adds for product in self.products)

    def operations(self, batch: int) -> dict[CostPrecision, int]:
        """By precision; a multiply-add is two."""
        found: dict[CostPrecision, int] = {}
        for product in self.products:
            found[product.precision] = found.get(product.precision, 0) + 2 * batch * product.multiply_adds
        return found

    def moved_bytes(self, batch: int) -> int:
        """To and from memory, all kernels together."""
        return sum(k.weight_bytes + batch * (k.read_bytes + k.written_bytes) for k in self.kernels)

    def least_bytes(self, batch: int) -> int:
        """That no fusion can save."""
        return self.weight_bytes + batch * self.image_bytes
