"""Compare the INT8 products of a graph with those of its engine, product by product, by the compiled kernels.

A product with DequantizeLinear on both factors is INT8 in the graph ("promised"). TensorRT may keep it, or dequantize
the weights and compute in float16 ("broken"): TensorRT-RTX 1.7.1 does that with every convolution for sm_75. Neither
the file nor its accuracy shows that; the engine's kernels do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from hemf_export.calibration.blocks import blocks, node_name
from hemf_export.calibration.graph_types import is_int8
from hemf_export.calibration.graphs import image_shapes, parse
from hemf_export.calibration.int8 import share_of
from hemf_export.calibration.products import Product, find_products
from hemf_export.engines.census import Census
from hemf_export.engines.kernels import TYPE_TITLES, Kernel
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.models.model_file import OnnxFile

_NAMED = 4  # products named in a message; more are summarized by block
_BLOCKS_NAMED = 6


@dataclass(frozen=True)
class Broken:
    """A product that is INT8 in the graph and computed in another type by the engine.

    Args:
        node: node of the graph.
        operator: Conv, Gemm or MatMul.
        block: block of the network.
        computed_in: type of the kernel that computes it.
        kernel: name of that kernel.
    """

    node: str
    operator: str
    block: str
    computed_in: str
    kernel: str


@dataclass(frozen=True)
class CompiledPrecision:
    """INT8 of an engine, compared with its graph's.

    Args:
        promised: number of INT8 products of the graph.
        kept: number of those that the engine computes in INT8.
        broken: those that the engine computes in another type.
        unlisted: those that no kernel names, of which nothing is known.
        promised_share: share of the graph's multiply-adds that are INT8 in the graph.
        share: share that is INT8 in the engine, without unlisted products.
    """

    promised: int
    kept: int
    broken: tuple[Broken, ...]
    unlisted: tuple[str, ...]
    promised_share: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {
            "promised_int8_products": self.promised,
            "int8_products": self.kept,
            "promised_share_of_multiply_adds": self.promised_share,
            "share_of_multiply_adds": self.share,
            "broken": [dict(vars(one)) for one in self.broken],
            "unlisted": list(self.unlisted),
        }


@dataclass(frozen=True)
class Graph:
    """Products of an engine's graph.

    Args:
        blocks: block of the network, by the names that a builder may give a node.
        products: all products, each with those names.
        int8: names of the nodes that are INT8 in the graph.
    """

    blocks: Mapping[str, str]
    products: tuple[tuple[Product, tuple[str, ...]], ...]
    int8: frozenset[str]


def read(path: Path) -> Graph:
    """Read the products of a file's graph; see `promises`.

    Raises:
        BadInputError: it can't be read.
    """
    return promises(parse(OnnxFile.open(path).read()))


def promises(model: ir.Model) -> Graph:
    """List the products of a graph in memory, those in INT8, and the names and blocks of its nodes."""
    where = blocks(model.graph)
    names = {node_name(node): _names(node) for node in model.graph}
    int8 = frozenset(node_name(node) for node in model.graph if is_int8(node))
    products = find_products(model.graph, image_shapes(model))
    return Graph(
        {each: where[name] for name, given in names.items() for each in given},
        tuple((product, names[product.node]) for product in products),
        frozenset(product.node for product in products if product.node in int8),
    )


def compare(graph: Graph, census: Census) -> CompiledPrecision | None:
    """Compare an engine's INT8 products with its graph's; None where the graph has none."""
    if not graph.int8:
        return None
    kept, broken, unlisted = _sorted(graph, census)
    every = [product for product, _ in graph.products]
    promised = [product for product in every if product.node in graph.int8]
    return CompiledPrecision(
        len(promised), len(kept), tuple(broken), tuple(unlisted), share_of(every, promised), share_of(every, kept)
    )


def kept_products(graph: Graph, census: Census) -> frozenset[str]:
    """Names of the INT8 products of a graph that an engine computes in INT8."""
    return frozenset(product.node for product in _sorted(graph, census)[0])


def _sorted(graph: Graph, census: Census) -> tuple[list[Product], list[Broken], list[str]]:
    """Divide the INT8 products into those that the engine keeps, breaks, and doesn't list."""
    carriers: dict[str, list[Kernel]] = {}
    for kernel in census.kernels:
        for node in kernel.onnx_nodes:
            carriers.setdefault(node, []).append(kernel)
    kept: list[Product] = []
    broken: list[Broken] = []
    unlisted: list[str] = []
    for product, names in graph.products:
        if product.node not in graph.int8:
            continue
        own = [kernel for name in names for kernel in carriers.get(name, ())]
        compute = [kernel for kernel in own if kernel.is_product]
        if any(kernel.product_type == "int8" for kernel in compute):
            kept.append(product)
        elif own:
            kernel = (compute or own)[0]
            broken.append(Broken(product.node, product.operator, product.block, _type_of(kernel), kernel.name))
        else:
            unlisted.append(product.node)
    return kept, broken, unlisted


def require_kept(compiled: CompiledPrecision | None, census: Census | None, graph: Graph, name: str) -> None:
    """Raise CheckFailedError unless an engine is known to keep all INT8 products of its graph.

    Args:
        compiled: result of `compare`.
        census: kernels of the engine; None where they aren't known.
        graph: products of its graph.
        name: name of the graph's file.
    """
    if not graph.int8:
        return
    if census is None or compiled is None:
        raise CheckFailedError(
            f"{name} has {len(graph.int8)} products in INT8, and the builder doesn't tell what it computes them in.",
            "Nothing was written.",
        )
    if compiled.broken or compiled.unlisted:
        text = (
            remark(compiled.to_dict()) or f"{len(compiled.unlisted)} INT8 products of {name} are in no kernel's list."
        )
        hint = "Nothing was written. Build the FP16 graph, or for a target that has these products in INT8."
        raise CheckFailedError(text, hint, compiled.to_dict())


def remark(compiled: Mapping[str, Any]) -> str | None:
    """Describe the broken products in a sentence; None where there are none.

    Args:
        compiled: as in a manifest, see `CompiledPrecision.to_dict`.
    """
    broken: Sequence[Mapping[str, str]] = compiled["broken"]
    if not broken:
        return None
    types = Counter(TYPE_TITLES.get(one["computed_in"], one["computed_in"]) for one in broken)
    kinds = Counter(one["operator"] for one in broken)
    what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    one_only = len(broken) == 1
    start = (
        f"{what} of {compiled['promised_int8_products']} INT8 products in the file "
        f"{'is' if one_only else 'are'} computed in {' or '.join(types)} by the engine: "
    )
    if len(broken) <= _NAMED:
        return start + ", ".join(f"{one['node']} ({one['block']})" for one in broken) + "."
    places = Counter(one["block"] for one in broken)
    named = ", ".join(f"{count} in {block}" for block, count in list(places.items())[:_BLOCKS_NAMED])
    left = sum(list(places.values())[_BLOCKS_NAMED:])
    more = f", {left} in {len(places) - _BLOCKS_NAMED} more blocks" if left else ""
    return f"{start}{named}{more}; the manifest names each."


def require_plain(compiled: Any) -> None:
    """Raise BadInputError where a manifest's `compiled_precision` is invalid."""
    try:
        remark(compiled), work(compiled)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"A manifest's account of an engine's INT8 can't be read: {error!r}.", "Build the engine again."
        ) from error


def work(compiled: Mapping[str, Any]) -> str:
    """Describe the share of multiply-adds in INT8: the engine's, and the file's where it differs."""
    own, file = compiled["share_of_multiply_adds"], compiled["promised_share_of_multiply_adds"]
    beside = "" if own == file else f" (the file has {file:.1%})"
    return f"{own:.1%} of the multiply-adds as compiled{beside}"


def _names(node: ir.Node) -> tuple[str, ...]:
    """Names that TensorRT may give a node: its own, or one derived from its first output."""
    return (node.name,) if node.name else (node_name(node), f"node_of_{node.outputs[0].name}")


def _type_of(kernel: Kernel) -> str:
    if kernel.product_type is not None:
        return kernel.product_type
    # A small product may become a generated pointwise kernel, in the type of its inputs.
    read = [tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs) if tensor.dtype in TYPE_TITLES]
    return next((dtype for dtype in read if dtype != "int8"), "unknown")
