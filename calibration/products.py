"""Find the convolutions and matrix products of a graph: which of them can be quantized, and their multiply-adds.

Refused, as TensorRT gains nothing there or accuracy is lost: depthwise and other grouped convolutions, the classifier,
the resize of raw images, the products of attentions (a whole attention is one kernel in float16, and in int8 several,
with the scores in memory between them), products with a short inner dimension, signed permutations (the rotation of
pairs is one: no arithmetic), products that only say which values are taken, and products of values that must stay in
float32. Other operators that multiply and add (ConvTranspose, Einsum, ONNX Runtime's fused ones) are listed too, so
that shares refer to all multiply-adds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.blocks import RESIZE, block_of, blocks, node_name
from hemf_export.calibration.choices import choosing_nodes, feeds
from hemf_export.calibration.graphs import Shape
from hemf_export.calibration.ranges import MOVES, source_of

QUANTIZABLE = ("Conv", "Gemm", "MatMul")
_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv")
_MATRIX_PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "FusedGemm", "TransposeMatMul", "FusedMatMulActivation")
PRODUCTS = (
    *(*_CONVOLUTIONS, *_MATRIX_PRODUCTS, "ConvTranspose", "DeformConv", "Einsum", "LSTM", "GRU", "RNN"),
    *("Attention", "MultiHeadAttention", "PackedMultiHeadAttention", "GroupQueryAttention"),
)
UNKNOWN = "unknown shape"
MIN_INNER = 16  # a shorter inner dimension doesn't fill a tensor core instruction
_CHOOSES = "says which values are taken: rounding would change the choice"
_RESIZE = "resizes the image: exact in float16, and meant to be"
_BEFORE_SOFTMAX = ("Add", "Sub", "Mul", "Div", "Where", "Cast")  # operators that scale and mask scores
_MOST_BEFORE_SOFTMAX = 4


@dataclass(frozen=True)
class Product:
    """Node that multiplies and adds.

    Args:
        node: name of the node.
        operator: one of `PRODUCTS`, prefixed with its domain if that isn't ONNX's.
        block: block of the paper, or group of nodes, that it belongs to.
        activations: input positions and value names of its activations.
        weight: input position of the weight; None if both factors are activations.
        axis: axis of the weight's output channels.
        inner: inner dimension, the length of the sums.
        multiply_adds: multiply-adds for one image; if unknown, those of the graph's largest product.
        refusal: why it isn't quantized; None if it can be.
        counted: whether its multiply-adds are known from the graph.
    """

    node: str
    operator: str
    block: str
    activations: tuple[tuple[int, str], ...]
    weight: int | None
    axis: int
    inner: int
    multiply_adds: int
    refusal: str | None
    counted: bool = True


def find_products(
    graph: ir.Graph, shapes: Mapping[str, Shape], *, islands: Collection[str] = (), for_cpu: bool = False
) -> list[Product]:
    """List every product of a graph, in graph order.

    Args:
        graph: constants are initializers.
        shapes: shapes of its values for one image; see `calibration.graphs.image_shapes`.
        islands: names of the nodes that stay in float32.
        for_cpu: accept what gains on a CPU instead: any convolution and Gemm, of any inner dimension.
    """
    where = blocks(graph)
    classifier = _classifier(graph)
    choosing = set(choosing_nodes(graph))
    products = []
    for node in graph:
        constants = [value is not None and value.const_value is not None for value in node.inputs[:2]]
        if node.op_type not in PRODUCTS or all(constants):
            continue
        weight = constants.index(True) if any(constants) else None
        activations = tuple(
            (index, str(value.name))
            for index, value in enumerate(node.inputs[:2])
            if index != weight and value is not None
        )
        inner = _inner(node, weight, shapes)
        multiply_adds = _multiply_adds(node, inner, shapes)
        if node.op_type not in QUANTIZABLE or node.domain not in ("", "ai.onnx"):
            refusal: str | None = f"{node.op_type}: an operator that INT8 is not used for"
        elif node in choosing:
            refusal = _CHOOSES
        elif for_cpu and node.op_type == "Conv" and feeds(node.outputs[0], choosing):
            refusal = _CHOOSES  # its output would be quantized too
        elif for_cpu:
            refusal = _cpu_refusal(node, weight, inner, classifier)
        else:
            refusal = _refusal(node, weight, inner, classifier, islands)
        if refusal is None and not multiply_adds:
            refusal = UNKNOWN
        product = Product(
            node=node_name(node),
            operator=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}",
            block=where[node_name(node)],
            activations=activations,
            weight=weight,
            axis=_output_axis(node, weight),
            inner=inner,
            multiply_adds=multiply_adds,
            refusal=refusal,
            counted=multiply_adds > 0,
        )
        products.append(product)
    largest = max((product.multiply_adds for product in products), default=0)
    return [
        product if product.counted else dataclasses.replace(product, multiply_adds=max(1, largest))
        for product in products
    ]


def _multiply_adds(node: ir.Node, inner: int, shapes: Mapping[str, Shape]) -> int:
    """Count the multiply-adds of a node for one image; 0 if shapes are unknown."""
    if node.op_type == "ConvTranspose":
        source, weight = (shapes.get(str(value.name), ()) for value in node.inputs[:2] if value is not None)
        return math.prod(source) * math.prod(weight[1:]) if source and weight else 0
    return math.prod(shapes.get(str(node.outputs[0].name), (0,))) * inner


def _refusal(
    node: ir.Node, weight: int | None, inner: int, classifier: ir.Node | None, islands: Collection[str]
) -> str | None:
    if node is classifier:
        return "the classifier"
    if block_of(node_name(node)) == RESIZE:
        return _RESIZE
    if node_name(node) in islands:
        return "stays in float32"
    if node.op_type == "Conv" and _groups(node) > 1:
        return "depthwise or grouped convolution"
    if _turned(node):
        return "a Gemm of a transposed activation"
    if inner == 0:
        return UNKNOWN
    if inner < MIN_INNER:
        return f"inner dimension under {MIN_INNER}"
    if _attends(node):
        return "an attention, which is one kernel in float16"
    if weight is None:
        if any(value is not None and source_of(value).const_value is not None for value in node.inputs[:2]):
            return "its weight is rearranged by the graph"
        sources = [_source(value) for value in node.inputs[:2] if value is not None]
        if any(source is not None and node_name(source) in islands for source in sources):
            return "a factor comes from a float32 island"
    elif _constant(node, weight).ndim < 2:
        return "a vector has no channels"
    elif node.op_type == "MatMul" and weight == 1 and _constant(node, weight).ndim > 2:
        return "several weights in one, which ONNX Runtime doesn't run in INT8"
    elif is_signed_permutation(_constant(node, weight)):
        return "a signed permutation"
    return None


def _cpu_refusal(node: ir.Node, weight: int | None, inner: int, classifier: ir.Node | None) -> str | None:
    if node is classifier:
        return "the classifier"
    if block_of(node_name(node)) == RESIZE:
        return _RESIZE
    if node.op_type == "MatMul" or weight != 1 or _turned(node):
        return "a matrix product that is no plain Gemm"
    return UNKNOWN if inner == 0 else None


def _turned(node: ir.Node) -> bool:
    """Return whether a Gemm transposes its first factor: its sums then run along another axis."""
    return node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int() == 1


def _attends(node: ir.Node) -> bool:
    """Return whether a MatMul computes the scores of a softmax, or multiplies a softmax's output."""
    if node.op_type != "MatMul":
        return False
    if any(source is not None and source.op_type == "Softmax" for source in map(_scaled_source, node.inputs)):
        return True
    readers = [(user, 0) for user in node.outputs[0].consumers()]
    while readers:
        user, steps = readers.pop()
        if user.op_type == "Softmax":
            return True
        if user.op_type in (*MOVES, *_BEFORE_SOFTMAX) and steps < _MOST_BEFORE_SOFTMAX:
            readers += [(reader, steps + 1) for reader in user.outputs[0].consumers()]
    return False


def _scaled_source(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else _source(value)
    while node is not None and node.op_type in ("Div", "Cast", "Dropout") and node.inputs[0] is not None:
        node = _source(node.inputs[0])
    return node


def _source(value: ir.Value) -> ir.Node | None:
    """Return the node that computes a value, before any nodes that only move its elements."""
    node = value.producer()
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _classifier(graph: ir.Graph) -> ir.Node | None:
    """Return the last product before the graph's output."""
    node = _source(graph.outputs[0])
    while node is not None and node.op_type not in PRODUCTS:
        value = next((value for value in node.inputs if value is not None and value.const_value is None), None)
        node = None if value is None else _source(value)
    return node


def _groups(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


def _constant(node: ir.Node, index: int) -> NDArray[np.generic]:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _output_axis(node: ir.Node, weight: int | None) -> int:
    if weight is None or node.op_type not in ("Gemm", "MatMul"):
        return 0
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
    if weight == 1:
        return 0 if transposed else len(_constant(node, 1).shape) - 1
    return max(0, len(_constant(node, 0).shape) - 2)  # the weight on the left: its rows are the output channels


def _inner(node: ir.Node, weight: int | None, shapes: Mapping[str, Shape]) -> int:
    """Return the inner dimension; 0 if it or the number of sums is unknown."""
    if str(node.outputs[0].name) not in shapes or node.op_type not in (*_CONVOLUTIONS, *_MATRIX_PRODUCTS):
        return 0
    first, second = (shapes.get(str(value.name), ()) if value is not None else () for value in node.inputs[:2])
    if node.op_type in _CONVOLUTIONS:
        return math.prod(second[1:]) if second else 0
    if weight == 1 and second:
        transposed = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        return second[-1 if transposed or len(second) == 1 else -2]
    return first[-1] if first else 0


def is_signed_permutation(matrix: NDArray[np.generic]) -> bool:
    """Return whether a matrix only moves values and changes signs: at most one ±1 in each row and column."""
    flat = matrix.reshape(-1, matrix.shape[-1])
    used = np.abs(flat.astype(np.float64))
    return bool(((used == 0) | (used == 1)).all() and (used.sum(0) <= 1).all() and (used.sum(1) <= 1).all())
