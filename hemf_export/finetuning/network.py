"""A quantized ONNX graph as a PyTorch module, executed node by node, so that its weights can be trained in place.

It computes what ONNX Runtime computes: INT8 rounding at every QuantizeLinear, and float16 rounded as on a GPU. Scales
stay fixed. Weights are float32 during training, and `store` writes them back into the graph.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemf_export.calibration import forms
from hemf_export.calibration.products import is_signed_permutation
from hemf_export.calibration.qdq import CPU_LEVELS
from hemf_export.calibration.ranges import LEVELS
from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.finetuning.operators import OPERATORS, dequantize, quantize, to_half

# Range of quantized activations by type.
_STEPS = {
    ir.DataType.INT8: (-128.0, 127.0),
    ir.DataType.UINT8: (0.0, 255.0),
    ir.DataType.INT32: (-(2.0**31), 2.0**31 - 1),
}
_BIAS_STEPS = 2**31 - 1
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# Operators that only select or move values, which are rounded already.
_EXACT = (
    *("Concat", "Flatten", "GatherND", "Identity", "Pad", "ReduceMax", "Relu", "Reshape", "Slice", "Split", "Squeeze"),
    *("TopK", "Transpose", "Unsqueeze"),
)
# Operator → inputs that are weights, biases, or scales and shifts of a norm.
_TRAINED = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "LayerNormalization": (1, 2)}


@dataclass(frozen=True)
class _Step:
    """One node, ready to be executed; `spent` are the values that no later node needs."""

    operator: str
    inputs: tuple[str | None, ...]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    half: bool
    spent: tuple[str, ...]


class GraphNetwork(nn.Module):
    """An ONNX graph as a module that maps normalized images (n, 3, H, W) to scores (n, classes).

    Args:
        model: the graph, with inferred value types (see `onnx_ir`'s shape inference); `store` writes into it.
        trained: names of the initializers that become parameters: float32 and float16 ones, and int8 or int32 ones
            that a single DequantizeLinear reads. All others stay constant.
        output: what the graph's output holds, such as logits.
        channels_last: whether the graph's input is (n, H, W, 3).

    Raises:
        BadInputError: the graph has an unsupported operator, or a subgraph.
    """

    def __init__(
        self, model: ir.Model, trained: Collection[str], output: ModelOutput = LOGITS, *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self._channels_last = channels_last
        graph = model.graph
        self._graph, self._scores = graph, output.tensor_scores
        self._input, self._output = str(graph.inputs[0].name), str(graph.outputs[0].name)
        self._steps = _plan(graph)
        self._integers: dict[str, Tensor] = {}  # shapes and axes: on the CPU, whatever the network's device
        self._attributes: dict[str, str] = {}  # initializer → attribute of this module
        self._readers: dict[str, ir.Node] = {}  # trained quantized initializer → its DequantizeLinear
        self._levels: dict[str, int] = {}  # trained quantized initializer → the largest magnitude of its integers
        for index, (name, value) in enumerate(graph.initializers.items()):
            if value.dtype in (ir.DataType.INT64, ir.DataType.BOOL):
                self._integers[name] = torch.from_numpy(_array(value).copy())
                continue
            attribute = f"initializer_{index}"  # names of values have dots, which torch doesn't allow
            self._attributes[name] = attribute
            if name in trained:
                if value.dtype not in _FLOATS:
                    self._readers[name] = next(node for node in value.consumers())
                    self._levels[name] = _levels(value)
                self.register_parameter(attribute, nn.Parameter(torch.from_numpy(self._exact(value))))
            else:
                self.register_buffer(attribute, torch.from_numpy(_array(value).astype(np.float32)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self._input: images.permute(0, 2, 3, 1) if self._channels_last else images}
        for step in self._steps:
            inputs = [None if name is None else self._value(name, values) for name in step.inputs]
            if step.operator in ("QuantizeLinear", "DequantizeLinear"):
                result: Tensor | tuple[Tensor, ...] = _convert(step, inputs)
            else:
                result = OPERATORS[step.operator](inputs, step.attributes)
            outputs = (result,) if isinstance(result, Tensor) else result
            for name, value in zip(step.outputs, outputs, strict=False):  # a norm's optional outputs are unused
                values[name] = to_half(value) if step.half else value
            for name in step.spent:
                values.pop(name, None)
        return self._scores(values[self._output])

    @torch.no_grad()
    def store(self) -> None:
        """Write the parameters, rounded to their types, into the graph."""
        for name, attribute in self._attributes.items():
            value = self._graph.initializers[name]
            parameter = getattr(self, attribute)
            if not isinstance(parameter, nn.Parameter):
                continue
            array = parameter.detach().cpu().numpy()
            assert value.dtype is not None
            if value.dtype not in _FLOATS:
                steps = array.astype(np.float64) / self._scale_of(name).astype(np.float64)
                array = np.clip(np.round(steps), -self._levels[name], self._levels[name])
            value.const_value = ir.Tensor(np.ascontiguousarray(array.astype(value.dtype.numpy())), name=name)

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
        """A computed value, or an initializer as the graph stores it: quantized, or rounded to float16."""
        if name in values:
            return values[name]
        if name in self._integers:
            return self._integers[name]
        stored: Tensor = getattr(self, self._attributes[name])
        if not isinstance(stored, nn.Parameter):
            return stored
        dtype = self._graph.initializers[name].dtype
        if dtype == ir.DataType.FLOAT16:
            return to_half(stored)
        if dtype == ir.DataType.FLOAT:
            return stored
        reader, most = self._readers[name], float(self._levels[name])
        scale = _along(getattr(self, self._attributes[_name(reader.inputs[1])]), stored, _axis(reader))
        return quantize(stored, scale, 0.0, (-most, most))

    def _exact(self, value: ir.Value) -> NDArray[np.float32]:
        """The dequantized value of an initializer, in float32."""
        array = _array(value).astype(np.float32)
        return array if value.dtype in _FLOATS else array * self._scale_of(str(value.name))

    def _scale_of(self, name: str) -> NDArray[np.float32]:
        """The scales of a quantized weight, reshaped to broadcast with it."""
        reader = self._readers[name]
        scale = _array(reader.inputs[1]).astype(np.float32)
        return scale.reshape(_broadcast(scale.size, _array(reader.inputs[0]).ndim, _axis(reader)))


def trained_initializers(graph: ir.Graph) -> Collection[str]:
    """Names of a quantized graph's trainable initializers: weights of matrix products and convolutions, biases, norms.

    Position tables are excluded, and so are products that only permute values and change signs.
    """
    names: dict[str, None] = {}
    for node in graph:
        places = forms.weight_inputs(node)
        for place in _TRAINED.get(node.op_type, ()) if places is None else places:
            value = node.inputs[place] if place < len(node.inputs) else None
            source = None if value is None else value.producer()
            if source is not None and source.op_type == "DequantizeLinear":
                value = source.inputs[0]
            if value is None or value.const_value is None:
                continue
            array = value.const_value.numpy()
            if array.ndim < 2 or not is_signed_permutation(array):
                names[str(value.name)] = None
    return names


def _plan(graph: ir.Graph) -> tuple[_Step, ...]:
    nodes = list(graph)
    last_use = {
        str(value.name): index for index, node in enumerate(nodes) for value in node.inputs if value is not None
    }
    spent: dict[int, list[str]] = {}
    for name, index in last_use.items():
        if name != graph.outputs[0].name:
            spent.setdefault(index, []).append(name)
    steps = []
    for index, node in enumerate(nodes):
        if node.op_type not in (*OPERATORS, "QuantizeLinear", "DequantizeLinear") or node.domain not in ("", "ai.onnx"):
            raise BadInputError(
                f"Node {node.name} ({node.op_type}): this operator can't be fine-tuned.",
                did_you_mean(node.op_type, OPERATORS),
            )
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "QuantizeLinear":
            attributes["steps"] = _STEPS[_stored_type(node)]
        output = node.outputs[0]
        if node.op_type not in ("Split", "TopK") and any(
            value.uses() or value.is_graph_output() for value in node.outputs[1:]
        ):
            raise BadInputError(f"Node {node.name} ({node.op_type}): its other outputs can't be fine-tuned.")
        half = output.dtype == ir.DataType.FLOAT16 and node.op_type not in _EXACT
        inputs = tuple(None if value is None else str(value.name) for value in node.inputs)
        outputs = tuple(str(value.name) for value in node.outputs)
        steps.append(_Step(node.op_type, inputs, attributes, outputs, half, tuple(spent.get(index, ()))))
    return tuple(steps)


def _stored_type(node: ir.Node) -> ir.DataType:
    """Type of a QuantizeLinear's output: that of its zero point, by default uint8."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = ir.DataType.UINT8 if zero is None else zero.dtype
    if dtype not in _STEPS:
        raise BadInputError(f"Node {node.name} quantizes to {dtype}; int8 and uint8 can be fine-tuned.")
    return dtype


def _convert(step: _Step, inputs: list[Tensor | None]) -> Tensor:
    value, scale = inputs[0], inputs[1]
    assert value is not None
    assert scale is not None
    axis = step.attributes.get("axis", 1)
    given = inputs[2] if len(inputs) > 2 else None
    zero: Tensor | float = 0.0 if given is None else _along(given, value, axis)
    scale = _along(scale, value, axis)
    if step.operator == "QuantizeLinear":
        return quantize(value, scale, zero, step.attributes["steps"])
    return dequantize(value, scale, zero)


def _along(constants: Tensor, value: Tensor, axis: int) -> Tensor:
    """Reshape one constant, or one per index along `axis`, to broadcast with `value`."""
    return constants.reshape(_broadcast(constants.numel(), value.ndim, axis))


def _broadcast(count: int, dimensions: int, axis: int) -> tuple[int, ...]:
    if count == 1:
        return ()
    return tuple(-1 if index == axis % dimensions else 1 for index in range(dimensions))


def _levels(value: ir.Value) -> int:
    """The largest magnitude of a quantized initializer's integers: 7 bits stay 7 bits, see `qdq.CPU_LEVELS`."""
    if value.dtype != ir.DataType.INT8:
        return _BIAS_STEPS
    return CPU_LEVELS if np.abs(_array(value).astype(np.int64)).max(initial=0) <= CPU_LEVELS else LEVELS


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 1


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return str(value.name)


def _array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
