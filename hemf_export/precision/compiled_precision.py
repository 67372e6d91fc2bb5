"""What a graph promises of INT8, and what an engine made of it: product by product, from the compiled kernels.

A product with DequantizeLinear on both factors is a promise. TensorRT may keep it, or dequantize the weights and
convolve in half: TensorRT-RTX 1.7.1 does that with every convolution for sm_75. The file can't tell, and neither can
its accuracy; the engine's kernels can.
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
from hemf_export.models.onnx_file import OnnxFile

_NAMED = 4  # products in a message; more are summarized by block
_BLOCKS_NAMED = 6
INT8_WORK = "work in INT8"  # the figure's title, wherever it is shown


@dataclass(frozen=True)
class Broken:
    """A product that the graph has in INT8 and the engine computes in something else.

    Args:
        node: of the graph.
        operator: Conv, Gemm or MatMul.
        block: of the network.
        computed_in: the type of the kernel that does it.
        kernel: its name.
    """

    node: str
    operator: str
    block: str
    computed_in: str
    kernel: str


@dataclass(frozen=True)
class CompiledPrecision:
    """An engine's INT8 beside its graph's.

    Args:
        promised: INT8 products of the graph.
        kept: those that a kernel of the engine computes in INT8.
        broken: those that a kernel computes in something else.
        unlisted: those that no kernel names: nothing is known of them.
        promised_share: of the graph's multiply-adds, in INT8 by the graph.
        share: the same by the engine; what is unlisted doesn't count as INT8.
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
    """What an engine's graph says of itself.

    Args:
        blocks: of the network, by the names that a builder may give the node.
        products: all that are there, each with those names.
        int8: names of the nodes that are promised in INT8.
    """

    blocks: Mapping[str, str]
    products: tuple[tuple[Product, tuple[str, ...]], ...]
    int8: frozenset[str]


def read(path: Path) -> Graph:
    """What the graph of a file promises.

    Raises:
        BadInputError: it can't be read.
    """
    return promises(parse(OnnxFile.open(path).read()))


def promises(model: ir.Model) -> Graph:
    """List the products that a graph in memory has in INT8, with the names and blocks of its nodes."""
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
    """What an engine made of a graph's INT8 products; None where the graph has none."""
    if not graph.int8:
        return None
    kept, broken, unlisted = _sorted(graph, census)
    every = [product for product, _ in graph.products]
    promised = [product for product in every if product.node in graph.int8]
    return CompiledPrecision(
        len(promised), len(kept), tuple(broken), tuple(unlisted), share_of(every, promised), share_of(every, kept)
    )


def kept_products(graph: Graph, census: Census) -> frozenset[str]:
    """The names of the INT8 products of a graph that an engine computes in INT8."""
    return frozenset(product.node for product in _sorted(graph, census)[0])


def _sorted(graph: Graph, census: Census) -> tuple[list[Product], list[Broken], list[str]]:
    """Sort the promised products into those that the engine keeps, breaks, and doesn't list."""
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


def require_kept(found: CompiledPrecision | None, census: Census | None, graph: Graph, name: str) -> None:
    """Raise CheckFailedError where an engine breaks a promise of its graph, or where that can't be seen.

    Args:
        found: what `compare` gave.
        census: of the engine; None where its kernels aren't known.
        graph: that it is built from.
        name: of the graph's file.
    """
    if not graph.int8:
        return
    if census is None or found is None:
        raise CheckFailedError(
            f"{name} has {len(graph.int8)} products in INT8, and the builder doesn't tell what it computes them in.",
            "Nothing was written.",
        )
    if found.broken or found.unlisted:
        text = remark(found.to_dict()) or f"{len(found.unlisted)} INT8 products of {name} are in no kernel's list."
        hint = "Nothing was written. Build the FP16 graph, or for a target that has these products in INT8."
        raise CheckFailedError(text, hint, found.to_dict())


def remark(found: Mapping[str, Any]) -> str | None:
    """What is broken, in a sentence; None where nothing is.

    Args:
        found: as `CompiledPrecision.to_dict` gives it.
    """
    broken: Sequence[Mapping[str, str]] = found["broken"]
    if not broken:
        return None
    types = Counter(TYPE_TITLES.get(one["computed_in"], one["computed_in"]) for one in broken)
    kinds = Counter(one["operator"] for one in broken)
    what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    one_only = len(broken) == 1
    start = (
        f"{what} of {found['promised_int8_products']} INT8 products in the file "
        f"{'is' if one_only else 'are'} computed in {' or '.join(types)} by the engine: "
    )
    if len(broken) <= _NAMED:
        return start + ", ".join(f"{one['node']} ({one['block']})" for one in broken) + "."
    places = Counter(one["block"] for one in broken)
    named = ", ".join(f"{count} in {block}" for block, count in list(places.items())[:_BLOCKS_NAMED])
    left = sum(list(places.values())[_BLOCKS_NAMED:])
    more = f", {left} in {len(places) - _BLOCKS_NAMED} more blocks" if left else ""
    return f"{start}{named}{more}; the manifest names each."


def require_plain(found: Any) -> None:
    """Raise BadInputError where a manifest's account of an engine's INT8 isn't one."""
    try:
        remark(found), work(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"A manifest's account of an engine's INT8 can't be read: {error!r}.", "Build the engine again."
        ) from error


def work(found: Mapping[str, Any]) -> str:
    """The share of the work in INT8: the engine's, and where it differs the file's."""
    own, file = found["share_of_multiply_adds"], found["promised_share_of_multiply_adds"]
    beside = "" if own == file else f" (the file has {file:.1%})"
    return f"{own:.1%} of the multiply-adds as compiled{beside}"


def _names(node: ir.Node) -> tuple[str, ...]:
    """What TensorRT may call a node: by its name, or where it has none by its first output."""
    return (node.name,) if node.name else (node_name(node), f"node_of_{node.outputs[0].name}")


def _type_of(kernel: Kernel) -> str:
    if kernel.product_type is not None:
        return kernel.product_type
    # A small product may become a generated kernel of products and sums, in the type of what it reads.
    read = [tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs) if tensor.dtype in TYPE_TITLES]
    return next((dtype for dtype in read if dtype != "int8"), "unknown")
