"""A graph as a small message, its weights beside it: what is done with a graph needs no second copy of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

_LEAST_BYTES = 1 << 12  # of what counts as a weight
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)
_FILE = "beside the graph"  # what the message calls the file of its weights: there is none


def skeleton(model: ir.Model, outputs: Sequence[str] = ()) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """The message of a model without its weights, and these by name, not copied; the model stays as it was.

    In the message a weight is an initializer whose data lies in another file, as ONNX Runtime wants it where it is
    given the weight itself.

    Args:
        model: weights are its initializers.
        outputs: names of values that become outputs beside the graph's own.
    """
    graph, own = model.graph, len(model.graph.outputs)
    known = {value.name for value in graph.outputs}
    wanted = {name for name in outputs if name not in known}
    values = {value.name: value for node in graph for value in node.outputs if value.name in wanted}
    tensors = {
        name: tensor
        for name, value in graph.initializers.items()
        if (tensor := value.const_value) is not None and tensor.dtype in _TYPES and tensor.nbytes >= _LEAST_BYTES
    }
    try:
        for name, tensor in tensors.items():
            graph.initializers[name].const_value = ir.ExternalTensor(
                _FILE, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
        graph.outputs.extend(values[name] for name in values)
        proto: onnx.ModelProto = ir.serde.serialize_model(model)
    finally:
        for name, tensor in tensors.items():
            graph.initializers[name].const_value = tensor
        while len(graph.outputs) > own:  # a deleted slice would leave them marked as outputs
            graph.outputs.pop()
    return proto, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
