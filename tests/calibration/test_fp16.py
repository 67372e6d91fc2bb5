"""The float16 conversion on graphs made by hand: types, islands, borders, weights out of range."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.fp16 import NORM, RENORMALIZED, to_float16
from hemf_export.files.errors import BadInputError


def graph(nodes, weights, shape=(2, 8), output_shape=None) -> ir.Model:
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape or shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    return ir.serde.deserialize_model(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    data = ir.serde.serialize_model(model)
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(data.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def weight(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


def renormalized(axis: int, sum_axis: int):
    return [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Softmax", ["a"], ["p"], name="softmax", axis=axis),
        helper.make_node("ReduceSum", ["p", "axes"], ["s"], name="sum", keepdims=1),
        helper.make_node("Div", ["p", "s"], ["y"], name="division"),
    ]


def test_a_softmax_over_thousands_divided_by_its_sum_survives():
    """In float16 the softmax of most of 3,136 spread tokens is zero, and so its sum: 0/0."""
    weights = {"w": weight(8, 8, scale=2.0), "axes": np.array([1], np.int64)}
    tokens = np.random.default_rng(1).standard_normal((3136, 8)).astype(np.float32) * 2
    model = graph(renormalized(0, 1), weights, (3136, 8))
    exact = run(model, tokens)
    done = to_float16(model)
    found = run(model, tokens)
    assert np.isfinite(exact).all()
    assert np.isfinite(found).all()
    assert np.abs(found - exact).max() < 0.05
    assert {name for name, reason in done.islands.items() if reason == RENORMALIZED} == {"softmax", "sum", "division"}
    softmax = (tokens @ weights["w"]).astype(np.float64)
    softmax = np.exp(softmax - softmax.max(0)) / np.exp(softmax - softmax.max(0)).sum(0)
    assert (softmax.astype(np.float16).sum(1) == 0).any(), "the case is one that float16 would not survive"


def test_no_value_within_an_island_goes_through_float16():
    model = graph(renormalized(1, 1), {"w": weight(8, 8), "axes": np.array([1], np.int64)})
    done = to_float16(model)
    operators = [node.op_type for node in model.graph]
    assert operators == ["Cast", "MatMul", "Cast", "Softmax", "ReduceSum", "Div"]
    assert done.casts == 2


def test_a_layer_norm_of_large_values_survives():
    weights = {"w": weight(8, 8, scale=300.0), "scale": np.ones(8, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("LayerNormalization", ["a", "scale"], ["y"], name="norm", epsilon=1e-6),
    ]
    model = graph(nodes, weights)
    x = weight(2, 8)
    exact = run(model, x)
    assert (((x @ weights["w"]) ** 2).mean(1) > 65504).all(), "the mean of squares is beyond float16"
    done = to_float16(model)
    assert np.abs(run(model, x) - exact).max() < 0.02
    assert done.islands == {"norm": NORM}


def test_weights_beyond_float16_keep_their_node_in_float32():
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], {"w": np.full((8, 8), 1e5, np.float32)}
    )
    x = weight(2, 8)
    exact = run(model, x)
    done = to_float16(model)
    assert done.saturated == ("w",)
    np.testing.assert_allclose(run(model, x), exact, rtol=1e-5)


def test_flushed_weights_are_counted():
    values = np.full((8, 8), 1e-9, np.float32)
    values[0] = 1.0
    done = to_float16(graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="p")], {"w": values}))
    assert done.flushed == pytest.approx(56 / 64)


def test_a_weight_used_on_both_sides_of_a_border_exists_in_both_types():
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="half"),
        helper.make_node("LayerNormalization", ["a", "w"], ["y"], name="norm"),
    ]
    model = graph(nodes, {"w": weight(8)})
    x = weight(2, 8)
    exact = run(model, x)
    to_float16(model)
    assert np.abs(run(model, x) - exact).max() < 0.02


def test_casts_of_the_graph_follow_and_integers_stay():
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], name="to int", to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["f"], name="to float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "w"], ["a"], name="product"),
        helper.make_node("Reshape", ["a", "shape"], ["y"], name="reshape"),
    ]
    model = graph(nodes, {"w": weight(8), "shape": np.array([2, 8], np.int64)})
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    exact = run(model, x)
    to_float16(model)
    assert np.abs(run(model, x) - exact).max() < 0.05


def test_constants_made_by_a_node_are_cast_where_they_are_used():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node(
            "ConstantOfShape", ["s"], ["ones"], name="ones", value=numpy_helper.from_array(np.ones(1, "f4"))
        ),
        helper.make_node("Add", ["x", "ones"], ["y"], name="sum"),
    ]
    model = graph(nodes, {})
    to_float16(model)
    assert np.array_equal(run(model, np.ones((2, 8), np.float32)), np.full((2, 8), 2.0, np.float32))


def test_what_is_not_converted_is_refused():
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="p")], {"w": weight(8, 8)})
    to_float16(model)
    with pytest.raises(BadInputError, match="float16 weights already"):
        to_float16(model)
