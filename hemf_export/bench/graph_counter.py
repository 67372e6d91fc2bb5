"""Operations and bytes of an ONNX graph, counted node by node, for a roofline.

Fusion is assumed, not known: a product (Conv, Gemm, MatMul), a normalization, a softmax, a reduction or a pooling
begins a kernel; what only computes value by value or moves values (Add, Mul, GELU, Cast, Transpose, QuantizeLinear …)
runs in the kernel of its last input. A kernel reads each value and weight from memory once, however often it uses it,
and writes what others need once; what stays within it costs nothing. Real engines fuse less here (a Transpose is often
a kernel) and more there (attention as one kernel), so a second figure counts the least that any engine must move:
weights, images and logits. Knows nothing of GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir

from calibration.blocks import blocks, node_name
from calibration.graphs import parse
from calibration.products import Product, find_products, is_signed_permutation
from calibration.shapes import Shape, image_shapes
from hemf_export.bench.graph_cost import CostPrecision, GraphCost, Kernel, NodeCost

_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear"))
_MOVES = _VIEWS | {"Transpose", "Slice", "Split", "Concat", "Gather", "Expand", "Pad", "Tile", "DepthToSpace"}
_VALUE_BY_VALUE = frozenset((
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Pow", "PRelu",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
    "BatchNormalization", "Cos", "Sin", "SpaceToDepth",
))  # fmt: skip
_ADDRESSES = (ir.DataType.INT64, ir.DataType.BOOL)  # sizes, axes, positions: no memory worth counting


def count(proto: onnx.ModelProto, assumed: CostPrecision | None = None) -> GraphCost:
    """Count a graph.

    Args:
        proto: of any precision, with constants as initializers.
        assumed: count a float32 graph as if it were in float16 ("fp16"), or as if besides every product that INT8 is
            used for were in int8 ("int8"). None counts the types that are there.
    """
    model = parse(proto)
    shapes = image_shapes(model)
    return _Counter(model.graph, shapes, assumed).count()


class _Counter:
    """One graph, on its way to a `GraphCost`."""

    def __init__(self, graph: ir.Graph, shapes: Mapping[str, Shape], assumed: CostPrecision | None) -> None:
        self._graph, self._shapes, self._assumed = graph, shapes, assumed
        shape = shapes.get(str(graph.inputs[0].name), (1,))
        self._images = shape[0] if shape else 1
        self._products = {product.node: product for product in find_products(graph, shapes) if product.counted}
        self._blocks = blocks(graph)
        self._constants: dict[ir.Value, frozenset[ir.Value]] = {}  # value → the initializers that it is made of
        self._kernel_of: dict[ir.Node, int] = {}
        self._kernels: list[Kernel] = []
        self._nodes: list[list[ir.Node]] = []  # of each kernel
        self._unknown: set[str] = set()

    def count(self) -> GraphCost:
        self._group()
        readers = self._connect()
        weights: dict[ir.Value, int] = {}
        for kernel, used in zip(self._kernels, self._weights(), strict=True):
            kernel.weight_bytes = sum(used.values())
            weights |= used
        for value, kernels in readers.items():
            bytes_ = self._bytes(value, kernels)
            producer = value.producer()
            source = None if producer is None else self._kernel_of[producer]
            if source is not None:
                self._kernels[source].written_bytes += bytes_
            for reader in kernels:
                if reader is not None and reader != source:
                    self._kernels[reader].read_bytes += bytes_
        ends = [*self._graph.inputs, *self._graph.outputs]
        image = sum(self._bytes(self._source(value), frozenset()) for value in ends)
        return GraphCost(self._node_costs(), tuple(self._kernels), sum(weights.values()), image, len(self._unknown))

    def _group(self) -> None:
        """Give every node that computes a kernel."""
        for node in self._graph:
            inputs = [value for value in node.inputs if value is not None]
            if all(self._is_constant(value) for value in inputs):
                made_of = frozenset().union(*(self._made_of(value) for value in inputs))
                self._constants |= dict.fromkeys(node.outputs, made_of)
                continue
            before = [
                self._kernel_of[producer] for value in inputs if (producer := value.producer()) in self._kernel_of
            ]
            light = node.op_type in _MOVES or node.op_type in _VALUE_BY_VALUE
            if not light or not before:
                self._kernels.append(Kernel())
                self._nodes.append([])
                before = [len(self._kernels) - 1]
            self._kernel_of[node] = max(before)
            self._kernels[max(before)].nodes.append(node_name(node))
            self._nodes[max(before)].append(node)

    def _connect(self) -> dict[ir.Value, frozenset[int | None]]:
        """Values that cross from kernel to kernel → the kernels that read them; None stands for the caller."""
        readers: dict[ir.Value, set[int | None]] = {}
        for node, kernel in self._kernel_of.items():
            if _is_view(node):
                continue
            for value in node.inputs:
                if value is None or self._is_constant(value) or value.dtype in _ADDRESSES:
                    continue
                source = self._source(value)
                producer = source.producer()
                if producer is None or self._kernel_of[producer] != kernel:
                    readers.setdefault(source, set()).add(kernel)
        for value in self._graph.outputs:
            readers.setdefault(self._source(value), set()).add(None)
        return {value: frozenset(kernels) for value, kernels in readers.items()}

    def _weights(self) -> list[dict[ir.Value, int]]:
        """Bytes of the weights that each kernel reads."""
        found: list[dict[ir.Value, int]] = [{} for _ in self._kernels]
        for node, kernel in self._kernel_of.items():
            product = self._products.get(node_name(node))
            narrow = product is not None and self._assumed == "int8" and product.refusal is None
            for index, value in enumerate(node.inputs):
                if value is None or not self._is_constant(value):
                    continue
                for weight in self._made_of(value):
                    if weight.dtype in _ADDRESSES or weight.shape is None:
                        continue
                    size = 1 if narrow and product is not None and index == product.weight else self._width(weight)
                    found[kernel][weight] = size * math.prod(int(axis) for axis in weight.shape.numpy())
        return found

    def _bytes(self, value: ir.Value, readers: Collection[int | None]) -> int:
        """Of a value, for one image; as int8 where int8 products are all that reads it, and int8 is assumed."""
        shape = self._shapes.get(str(value.name))
        if shape is None:
            self._unknown.add(str(value.name))
            return 0
        products = [self._only_product(kernel, value) for kernel in readers if kernel is not None]
        narrow = self._assumed == "int8" and None not in readers and products and all(products)
        return (1 if narrow else self._width(value)) * math.prod(shape) // self._images

    def _only_product(self, kernel: int, value: ir.Value) -> bool:
        """Whether what reads `value` in a kernel is a product that int8 is used for."""
        found = []
        for node in self._nodes[kernel]:
            given = [value for value in node.inputs if value is not None]
            if not _is_view(node) and any(self._source(one) is value for one in given):
                product = self._products.get(node_name(node))
                found.append(product is not None and product.refusal is None)
        return bool(found) and all(found)

    def _width(self, value: ir.Value) -> int:
        """Bytes of one number; what is only moved is as wide as before, and so is what is dequantized."""
        producer = value.producer()
        while producer is not None and _is_move(producer) and producer.inputs[0] is not None:
            value = producer.inputs[0]
            producer = value.producer()
        kind = value.dtype or ir.DataType.FLOAT
        if kind == ir.DataType.FLOAT and self._assumed in ("fp16", "int8"):
            return 2
        return max(1, round(kind.itemsize))

    def _node_costs(self) -> tuple[NodeCost, ...]:
        nodes = {node_name(node): node for node in self._kernel_of}
        found = []
        for name, product in self._products.items():
            node = nodes[name]
            cost = NodeCost(
                name, product.operator, self._blocks[name], product.multiply_adds // self._images,
                self._precision(node, product), _only_moves(node, product),
            )  # fmt: skip
            kernel = self._kernels[self._kernel_of[node]].multiply_adds
            kernel[cost.precision] = kernel.get(cost.precision, 0) + cost.multiply_adds
            found.append(cost)
        return tuple(found)

    def _precision(self, node: ir.Node, product: Product) -> CostPrecision:
        if self._assumed is not None:
            return "fp16" if self._assumed == "int8" and product.refusal is not None else self._assumed
        if all(value is not None and _dequantized(value) for value in node.inputs[:2]):
            return "int8"
        return "fp16" if node.outputs[0].dtype == ir.DataType.FLOAT16 else "fp32"

    def _source(self, value: ir.Value) -> ir.Value:
        """What a value is another view of."""
        producer = value.producer()
        while producer is not None and _is_view(producer) and producer.inputs[0] is not None:
            value = producer.inputs[0]
            producer = value.producer()
        return value

    def _is_constant(self, value: ir.Value) -> bool:
        return value in self._constants or value.is_initializer()

    def _made_of(self, value: ir.Value) -> frozenset[ir.Value]:
        return self._constants.get(value, frozenset((value,)))


def _is_view(node: ir.Node) -> bool:
    """Whether its output is its input, read otherwise: what widens numbers is left to whoever reads them."""
    if node.op_type != "Cast" or node.inputs[0] is None:
        return node.op_type in _VIEWS
    before, after = node.inputs[0].dtype, node.outputs[0].dtype
    return before is not None and after is not None and before.itemsize < after.itemsize


def _is_move(node: ir.Node) -> bool:
    return node.op_type in _MOVES or _is_view(node)


def _only_moves(node: ir.Node, product: Product) -> bool:
    weight = None if product.weight is None else node.inputs[product.weight]
    return weight is not None and weight.const_value is not None and is_signed_permutation(weight.const_value.numpy())


def _dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in _MOVES and producer.op_type != "DequantizeLinear":
        if producer.inputs[0] is None:
            return False
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
