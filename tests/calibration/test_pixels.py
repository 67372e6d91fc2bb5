"""Graphs that take pixels: TensorRT moves no uint8 values, so that they are converted before anything else."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.session import Session
from tests.calibration.test_opsets import node, values

# From x, (n, 16, 16, 3) uint8, to f, (n, 3, 16, 16) float32.
TRANSPOSED = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Cast", "t", "f", to=TensorProto.FLOAT)]
CASES = {
    "transposed": TRANSPOSED,
    "channels turned": [
        node("Split", "x", "r g b", axis=3), node("Concat", "b g r", "turned", axis=3),
        node("Transpose", "turned", "t", perm=[0, 3, 1, 2]), node("Cast", "t", "f", to=TensorProto.FLOAT),
    ],
    "converted in parts": [
        node("Split", "x", "r g b", axis=3),
        *(node("Cast", one, f"{one}f", to=TensorProto.FLOAT) for one in "rgb"),
        node("Concat", "bf gf rf", "turned", axis=3), node("Transpose", "turned", "f", perm=[0, 3, 1, 2]),
    ],
    "reshaped by its own shape": [
        node("Shape", "x", "shape"), node("Reshape", "x shape", "same"),
        node("Transpose", "same", "t", perm=[0, 3, 1, 2]), node("Cast", "t", "f", to=TensorProto.FLOAT),
    ],
}  # fmt: skip


def graph(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    body = [
        *nodes, node("Mul", "f share", "scaled"), node("Conv", "scaled k", "c", kernel_shape=[3, 3]),
        node("GlobalAveragePool", "c", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = {"k": values(4, 3, 3, 3), "share": np.array(1 / 255, np.float32)}
    return helper.make_model(
        helper.make_graph(
            body, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 16, 16, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_nothing_moves_before_it_is_converted(name: str):
    file = graph(CASES[name])
    prepared = prepare(file)
    readers = [reader.op_type for reader, _ in prepared.graph.inputs[0].uses()]
    assert readers == ["Cast"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(Session(prepared).run(pixels)[0], session.run(None, {"x": pixels})[0])


def test_pixels_that_are_computed_with_stay_as_they_are():
    nodes = [node("Max", "x low", "m"), node("Add", "m t", "t2"), node("Transpose", "x", "t", perm=[0, 1, 2, 3])]
    nodes = [nodes[2], nodes[0], nodes[1], node("Transpose", "t2", "u", perm=[0, 3, 1, 2])]
    file = graph([*nodes, node("Cast", "u", "f", to=TensorProto.FLOAT)])
    file.graph.initializer.append(numpy_helper.from_array(np.array(9, np.uint8), "low"))
    prepared = prepare(file)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": pixels})[0]  # sums beyond 255 wrap around
    np.testing.assert_array_equal(Session(prepared).run(pixels)[0], expected)
