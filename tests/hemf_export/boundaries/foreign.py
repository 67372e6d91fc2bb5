"""A classifier of somebody else, whose tensors and nodes have any name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def foreign(path: Path, name: str, classes: tuple[str, ...], side: int = 32) -> Path:
    """Two convolutions and a Gemm; `name` is the input's, the output's with an ending, and a node's and a weight's."""
    draw = np.random.default_rng(0)
    weights = {
        f"{name}.w": draw.standard_normal((16, 3, 3, 3)), f"{name}.v": draw.standard_normal((16, 16, 3, 3)) * 0.1,
        f"{name}.g": draw.standard_normal((16, len(classes))), f"{name}.b": np.zeros(len(classes)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", [name, f"{name}.w"], ["c"], name, kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], f"{name}/relu"),
        helper.make_node("Conv", ["r", f"{name}.v"], ["d"], f"{name}/conv", kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", f"{name}.g", f"{name}.b"], [f"{name}.out"], f"{name}/head"),
    ]
    graph = helper.make_graph(
        nodes, name or "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, ["N", len(classes)])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, producer_name=name)
    onnx.save(model, path)
    return path
