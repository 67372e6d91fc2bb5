"""Compute the latency floor of a graph on a GPU by the roofline model: operations and bytes over published rates.

A kernel takes the longer of its operations at the peak rate of their type and its bytes at the peak bandwidth; kernels
run one after another. Clocks below boost and power limits are ignored, and only products count as operations:
exponentials and sums are hidden behind memory traffic.

If an engine was compiled from the graph, its kernels are counted, with 2.5 µs per launch. Otherwise fusion is assumed,
without launches: a floor as far as that assumption holds. The share of it that is reached is for comparison, not a
grade. docs/engine-model.md shows how close these times are to published latencies.

Assumed fusion: a product (Conv, Gemm, MatMul), a normalization, a softmax, a reduction or a pooling starts a kernel;
elementwise operators and moves (Add, Mul, GELU, Cast, Transpose, QuantizeLinear …) run in the kernel of their last
input. A kernel reads each value and weight from memory once, and writes once what others read; what stays within it is
free. Real engines sometimes fuse less (a Transpose is often a kernel) and sometimes more (attention as one kernel), so
a second figure counts the minimum that any engine must move: weights, images and logits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx
import onnx_ir as ir

from hemf_export.calibration.blocks import blocks, node_name
from hemf_export.calibration.graphs import Shape, image_shapes, parse
from hemf_export.calibration.products import Product, find_products, is_signed_permutation
from hemf_export.engines import targets
from hemf_export.engines.targets import Chip, Target
from hemf_export.files.errors import UsageError
from hemf_export.precision.compiled_engines import Compiled

CostPrecision = Literal["fp32", "fp16", "int8"]
_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear"))
_MOVES = _VIEWS | {"Transpose", "Slice", "Split", "Concat", "Gather", "Expand", "Pad", "Tile", "DepthToSpace"}
_VALUE_BY_VALUE = frozenset((
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Pow", "PRelu",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
    "BatchNormalization", "Cos", "Sin", "SpaceToDepth",
))  # fmt: skip
_ADDRESSES = (ir.DataType.INT64, ir.DataType.BOOL)  # sizes, axes, positions: no memory worth counting


@dataclass(frozen=True)
class NodeCost:
    """Cost of a node that multiplies and adds.

    Args:
        node: name of the node.
        operator: Conv, Gemm or MatMul.
        block: block of the paper.
        multiply_adds: multiply-adds for one image.
        precision: precision of its factors.
        moves: whether it is a signed permutation, which is a product in the graph but not in the equations.
    """

    node: str
    operator: str
    block: str
    multiply_adds: int
    precision: CostPrecision
    moves: bool


@dataclass
class Kernel:
    """Nodes that are assumed to be one kernel. Bytes and multiply-adds are per image, weights per call.

    Args:
        nodes: names of the nodes.
        multiply_adds: multiply-adds by precision.
        weight_bytes: bytes of weights, read once for any batch.
        read_bytes: bytes of activations read.
        written_bytes: bytes of activations written.
    """

    nodes: list[str] = field(default_factory=list)
    multiply_adds: dict[CostPrecision, int] = field(default_factory=dict)
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class GraphCost:
    """Cost of one call.

    Args:
        products: every node that multiplies and adds, in graph order.
        kernels: kernels in graph order.
        weight_bytes: bytes of all weights, each once.
        image_bytes: bytes of the input and the logits of one image.
        uncounted: values of unknown size, whose bytes are missing.
    """

    products: tuple[NodeCost, ...]
    kernels: tuple[Kernel, ...]
    weight_bytes: int
    image_bytes: int
    uncounted: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image in all precisions."""
        return sum(product.multiply_adds for product in self.products)

    def operations(self, batch: int) -> dict[CostPrecision, int]:
        """Return operations by precision; a multiply-add is two."""
        operations: dict[CostPrecision, int] = {}
        for product in self.products:
            operations[product.precision] = operations.get(product.precision, 0) + 2 * batch * product.multiply_adds
        return operations

    def moved_bytes(self, batch: int) -> int:
        """Return the bytes that all kernels move to and from memory."""
        return sum(k.weight_bytes + batch * (k.read_bytes + k.written_bytes) for k in self.kernels)

    def least_bytes(self, batch: int) -> int:
        """Return the bytes that no fusion can save: weights, images and logits, each once."""
        return self.weight_bytes + batch * self.image_bytes


def count_graph(proto: onnx.ModelProto, assumed: CostPrecision | None = None) -> GraphCost:
    """Count the cost of a graph.

    Args:
        proto: graph of any precision, with constants as initializers.
        assumed: count a float32 graph as if in float16 ("fp16"), or as if also all quantizable products were in int8
            ("int8"). None counts the actual types.
    """
    model = parse(proto)
    shapes = image_shapes(model)
    return _Counter(model.graph, shapes, assumed).count()


class _Counter:
    """Counter of the cost of one graph."""

    def __init__(self, graph: ir.Graph, shapes: Mapping[str, Shape], assumed: CostPrecision | None) -> None:
        self._graph, self._shapes, self._assumed = graph, shapes, assumed
        shape = shapes.get(str(graph.inputs[0].name), (1,))
        self._images = shape[0] if shape else 1
        self._products = {product.node: product for product in find_products(graph, shapes) if product.counted}
        self._blocks = blocks(graph)
        self._constants: dict[ir.Value, frozenset[ir.Value]] = {}  # value → initializers that it is computed from
        self._kernel_of: dict[ir.Node, int] = {}
        self._kernels: list[Kernel] = []
        self._nodes: list[list[ir.Node]] = []  # nodes of each kernel
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
        """Assign every computing node to a kernel."""
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
        """Map values between kernels to the kernels that read them; None stands for the caller."""
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
        """Return the bytes of the weights that each kernel reads."""
        weights: list[dict[ir.Value, int]] = [{} for _ in self._kernels]
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
                    weights[kernel][weight] = size * math.prod(int(axis) for axis in weight.shape.numpy())
        return weights

    def _bytes(self, value: ir.Value, readers: Collection[int | None]) -> int:
        """Return the bytes of a value for one image; as int8 if int8 is assumed and only int8 products read it."""
        shape = self._shapes.get(str(value.name))
        if shape is None:
            self._unknown.add(str(value.name))
            return 0
        products = [self._only_product(kernel, value) for kernel in readers if kernel is not None]
        narrow = self._assumed == "int8" and None not in readers and products and all(products)
        return (1 if narrow else self._width(value)) * math.prod(shape) // self._images

    def _only_product(self, kernel: int, value: ir.Value) -> bool:
        """Return whether only a quantizable product reads `value` in a kernel."""
        quantized = []
        for node in self._nodes[kernel]:
            inputs = [value for value in node.inputs if value is not None]
            if not _is_view(node) and any(self._source(given) is value for given in inputs):
                product = self._products.get(node_name(node))
                quantized.append(product is not None and product.refusal is None)
        return bool(quantized) and all(quantized)

    def _width(self, value: ir.Value) -> int:
        """Return the bytes of one element; moved and dequantized values keep the width of their source."""
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
        costs = []
        for name, product in self._products.items():
            node = nodes[name]
            cost = NodeCost(
                name, product.operator, self._blocks[name], product.multiply_adds // self._images,
                self._precision(node, product), _only_moves(node, product),
            )  # fmt: skip
            kernel = self._kernels[self._kernel_of[node]].multiply_adds
            kernel[cost.precision] = kernel.get(cost.precision, 0) + cost.multiply_adds
            costs.append(cost)
        return tuple(costs)

    def _precision(self, node: ir.Node, product: Product) -> CostPrecision:
        if self._assumed is not None:
            return "fp16" if self._assumed == "int8" and product.refusal is not None else self._assumed
        if all(value is not None and _dequantized(value) for value in node.inputs[:2]):
            return "int8"
        return "fp16" if node.outputs[0].dtype == ir.DataType.FLOAT16 else "fp32"

    def _source(self, value: ir.Value) -> ir.Value:
        """Return the value that `value` is a view of."""
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
    """Return whether a node's output is a view of its input; widening casts count too, as their readers do them."""
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


@dataclass(frozen=True)
class Floor:
    """Latency floor of one graph on one GPU at one batch size.

    Args:
        precision: precision of the graph.
        batch: images per call.
        floor_ms: floor of the engine's kernels with their launches, or with the assumed fusion.
        least_ms: floor of any fusion: all operations at peak rate, or the bytes that must be moved.
        memory_bound: share of `floor_ms` in memory-bound kernels.
        operations: operations by precision; a multiply-add is two. For an engine, by the types of its kernels.
        moved_bytes: bytes moved by the engine's kernels, or with the assumed fusion.
        least_bytes: bytes of weights, images and logits.
        source: name of the file, and what was assumed about it.
        kernels: number of kernels of the engine; None if fusion is assumed.
    """

    precision: str
    batch: int
    floor_ms: float
    least_ms: float
    memory_bound: float
    operations: dict[str, int]
    moved_bytes: int
    least_bytes: int
    source: str
    kernels: int | None = None

    @property
    def images_per_second(self) -> float:
        """Largest throughput, in images per second."""
        return 1000 * self.batch / self.floor_ms

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        return {**vars(self), "images_per_second": self.images_per_second}


def floor_of_graph(cost: GraphCost, chip: Chip, batch: int, *, precision: str, source: str) -> Floor:
    """Compute the floor of a counted graph.

    Args:
        cost: cost of the graph.
        chip: the GPU's published rates.
        batch: images per call.
        precision: precision to record.
        source: source to record.
    """
    times = [_kernel_s(kernel, chip, batch) for kernel in cost.kernels]
    whole = sum(max(pair) for pair in times)
    waiting = sum(memory for compute, memory in times if memory >= compute)
    least = max(_compute_s(cost.operations(batch), chip), cost.least_bytes(batch) / _bandwidth(chip))
    operations = {str(kind): number for kind, number in cost.operations(batch).items()}
    return Floor(
        precision, batch, 1000 * whole, 1000 * least, waiting / whole if whole else 0.0, operations,
        cost.moved_bytes(batch), cost.least_bytes(batch), source,
    )  # fmt: skip


def floor_of_engine(compiled: Compiled, cost: GraphCost, chip: Chip, batch: int, *, precision: str) -> Floor:
    """Compute the floor of an engine's kernels, with sizes and work scaled from the batch of the census.

    Args:
        compiled: the engine.
        cost: cost of its graph, for the floor of any fusion.
        chip: the GPU's published rates.
        batch: images per call.
        precision: precision of the graph, to record.
    """
    census = compiled.census
    times, whole_ms = census.kernel_times_s(chip, batch), census.model_ms(chip, batch)
    multiply_adds = census.multiply_adds
    assert times is not None
    assert whole_ms is not None
    assert multiply_adds is not None
    assert census.activation_bytes is not None
    assert census.weight_bytes is not None
    assert census.batch is not None
    kernels = sum(map(max, times))
    waiting = sum(memory for compute, memory in times if memory >= compute)
    moved = census.weight_bytes + census.activation_bytes * batch // census.batch
    least = max(sum(compute for compute, _ in times), cost.least_bytes(batch) / _bandwidth(chip))
    operations = {kind: 2 * number * batch // census.batch for kind, number in multiply_adds.items()}
    source = f"{compiled.path.name}, as compiled" + ("" if batch == census.batch else f" for {census.batch}")
    return Floor(
        precision, batch, whole_ms, 1000 * least, waiting / kernels if kernels else 0.0, operations, moved,
        cost.least_bytes(batch), source, census.launches,
    )  # fmt: skip


def target_with_chip(name: str) -> tuple[Target, Chip]:
    """Find a target by name, with its chip.

    Raises:
        UsageError: no such target, or a compute capability alone, which has no rates.
    """
    target = targets.find(name)
    if target.chip is None:
        products = ", ".join(targets.TARGETS)
        raise UsageError(f"{name} is no product: a roofline needs its rates.", f"Name one: {products}.")
    return target, target.chip


def _kernel_s(kernel: Kernel, chip: Chip, batch: int) -> tuple[float, float]:
    operations = {kind: 2 * batch * number for kind, number in kernel.multiply_adds.items()}
    moved = kernel.weight_bytes + batch * (kernel.read_bytes + kernel.written_bytes)
    return _compute_s(operations, chip), moved / _bandwidth(chip)


def _compute_s(operations: dict[CostPrecision, int], chip: Chip) -> float:
    rates = {"fp32": chip.tflops_fp32, "fp16": chip.tflops_fp16, "int8": chip.tops_int8}
    return sum(number / (1e12 * rates[kind]) for kind, number in operations.items())


def _bandwidth(chip: Chip) -> float:
    return 1e9 * chip.bandwidth_gb_s
