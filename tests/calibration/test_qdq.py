"""Quantized graphs beside the same integer arithmetic in numpy, and what is in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from hemf_export.calibration import qdq
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graph_types import count_types
from hemf_export.calibration.graphs import copy_of, image_shapes
from hemf_export.calibration.products import find_products
from hemf_export.calibration.qdq import Statistics
from hemf_export.calibration.ranges import record
from hemf_export.calibration.session import Session
from hemf_export.calibration.weights import rounded
from tests.calibration.classifiers import node, prepared


def weight(*shape: int) -> np.ndarray:
    """Normal values; rows have sizes of their own."""
    generator = np.random.default_rng([3, *shape])
    sizes = 2 ** generator.uniform(-4, 0, shape[:1] + (1,) * (len(shape) - 1))
    return (generator.standard_normal(shape) * sizes).astype(np.float32)


X = np.random.default_rng(0).standard_normal((3, 16, 8, 8)).astype(np.float32)
WEIGHTS = {
    "k": weight(32, 16, 3, 3), "kb": weight(32), "wr": weight(64, 24), "wl": weight(40, 32), "fc": weight(48, 32),
    "fb": weight(48), "head": weight(48, 4), "three": np.array([0, 32, 64]), "one": np.array([1]),
}  # fmt: skip
CHANNELS = {"k": 0, "wr": 1, "wl": 0, "fc": 0}  # the axis of each weight's output channels


def every_kind() -> ir.Model:
    """A convolution, products with a weight on either side and without one, a Gemm, and the classifier."""
    nodes = [
        node("Conv", "x k kb", "conv", pads=[1] * 4), node("Relu", "conv", "relu"), node("Reshape", "relu three", "t"),
        node("MatMul", "t wr", "right"), node("MatMul", "wl t", "left"),
        node("Transpose", "t", "turned", perm=[0, 2, 1]), node("MatMul", "left turned", "pair"),
        node("ReduceMean", "pair one", "mean", keepdims=0),
        node("ReduceMax", "right one", "most", keepdims=0), node("ReduceMax", "most one", "top", keepdims=1),
        node("Add", "mean top", "sum"), node("Gemm", "sum fc fb", "gemm", transB=1), node("Relu", "gemm", "relu2"),
        node("MatMul", "relu2 head", "y"),
    ]  # fmt: skip
    return prepared(nodes, WEIGHTS, ("n", 16, 8, 8))


def quantized(model: ir.Model, x: np.ndarray, method="max", *, cpu: bool = False):
    products = [each for each in find_products(model.graph, image_shapes(model), for_cpu=cpu) if each.refusal is None]
    ranges, done = record(model, [x]), copy_of(model)
    quantize = qdq.quantize_for_cpu if cpu else qdq.quantize
    return done, quantize(done, products, Statistics(ranges.histograms), method), ranges


def values(model: ir.Model, x: np.ndarray, *names: str) -> list[np.ndarray]:
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    return Session(model, outputs=list(names), threads=1).run(x)


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def in_int8(x: np.ndarray, largest: float) -> tuple[np.ndarray, float]:
    """Integers, and the step between them: the first float16 that is not below largest / 127."""
    half = np.float16(largest / 127)
    step = float(half if float(half) >= largest / 127 else np.nextafter(half, np.float16(np.inf)))
    return np.clip(np.round(x / np.float32(step)), -128, 127).astype(np.int64), step


def weight_in_int8(name: str) -> tuple[np.ndarray, np.ndarray]:
    axis = CHANNELS[name]
    parts = [in_int8(part, float(np.abs(part).max())) for part in np.moveaxis(WEIGHTS[name], axis, 0)]
    return np.moveaxis(np.stack([part for part, _ in parts]), 0, axis), np.array([step for _, step in parts])


def convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """With one pixel of padding."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


@pytest.fixture(scope="module")
def made():
    return quantized(every_kind(), X)


def test_the_graph_computes_what_integers_do(made):
    model, _, ranges = made
    names = "relu", "sum", "conv", "right", "left", "pair", "gemm"
    found = {"x": X, **dict(zip(names, values(model, X, *names), strict=True))}
    k, wr, wl, fc = (weight_in_int8(name) for name in ("k", "wr", "wl", "fc"))
    (x, step), (relu, token_step), (rows, row_step), (sums, sum_step) = (
        in_int8(found[name], ranges.histograms[name].largest) for name in ("x", "relu", "left", "sum")
    )
    tokens = relu.reshape(3, 32, 64)
    expected = {
        "conv": convolved(x, k[0]) * step * k[1][:, None, None] + WEIGHTS["kb"][:, None, None],
        "right": tokens @ wr[0] * token_step * wr[1],
        "left": wl[0] @ tokens * token_step * wl[1][:, None],
        "pair": rows @ tokens.transpose(0, 2, 1) * row_step * token_step,
        "gemm": sums @ fc[0].T * sum_step * fc[1] + WEIGHTS["fb"],
    }
    for name, exact in expected.items():
        np.testing.assert_allclose(found[name], exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max(), err_msg=name)


def test_it_is_close_to_the_float32_graph_but_not_the_same(made):
    exact, found = (values(each, X, "y")[0] for each in (every_kind(), made[0]))
    assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


def test_weights_are_stored_in_int8_by_output_channel_and_no_longer_in_float32(made):
    stored = constants(made[0])
    for name, axis in CHANNELS.items():
        integers, steps = weight_in_int8(name)
        assert stored[f"{name}_int8"].dtype == np.int8
        assert np.array_equal(stored[f"{name}_int8"], integers)
        np.testing.assert_array_equal(stored[f"{name}_scale"], steps.astype(np.float32))
        assert len(stored[f"{name}_zero"]) == WEIGHTS[name].shape[axis]
        assert name not in stored
    assert {"kb", "fb", "head"} <= set(stored), "biases and the classifier stay"


def test_all_steps_are_exact_in_float16(made):
    scales = {name: array for name, array in constants(made[0]).items() if name.endswith("_scale")}
    assert len(scales) == len(CHANNELS) + len(made[1].scales)
    assert all(np.array_equal(array.astype(np.float16).astype(np.float32), array) for array in scales.values())
    assert all(np.float16(scale) == scale for scale in made[1].scales.values())


def test_a_value_that_several_products_take_is_quantized_once(made):
    taken = Counter(each.inputs[0].name for each in made[0].graph if each.op_type == "QuantizeLinear")
    assert taken == Counter(("x", "t", "left", "turned", "sum"))
    assert set(made[1].scales) == set(taken)
    assert made[1].scales["t"] == made[1].scales["turned"], "one histogram, of what both move"


def test_its_float16_conversion_runs_agrees_and_keeps_the_products_in_int8(made):
    model = copy_of(made[0])
    exact = values(model, X, "y")[0]
    to_float16(model, {})
    found = values(model, X, "y")[0]
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    counted = count_types(model)
    assert counted["products"] == {"int8": 5, "float16": 1}
    assert set(counted["nodes"]) == {"int8", "float16"}
    assert counted["quantization"] == 2 * 5 + 4
    assert {name for name, array in constants(model).items() if array.dtype == np.float32} == set()


def test_a_product_with_one_factor_in_int8_is_none_of_int8(made):
    model, plain = copy_of(made[0]), every_kind()
    gemm = next(each for each in model.graph if each.name == "gemm")
    model.graph.register_initializer(plain.graph.initializers.pop("fc"))
    gemm.replace_input_with(1, model.graph.initializers["fc"])
    assert count_types(model)["products"] == {"int8": 4, "float32": 2}


def test_products_that_were_not_asked_for_stay():
    model = every_kind()
    products = [each for each in find_products(model.graph, image_shapes(model)) if each.node in ("conv", "pair")]
    done = qdq.quantize(model, products, Statistics(record(model, [X]).histograms), "mse")
    assert done.nodes == ("conv", "pair")
    assert count_types(model)["products"] == {"int8": 2, "float32": 4}
    assert {"wr", "wl", "fc"} <= set(constants(model))


def test_a_method_that_clips_gives_smaller_steps():
    x = X.copy()
    x[0, 0, 0, 0] = 400.0
    largest, clipped = (quantized(every_kind(), x, method)[1].scales["x"] for method in ("max", "entropy"))
    assert largest == pytest.approx(400 / 127, rel=2e-3)
    assert clipped < largest / 4


def test_values_that_are_zero_alone_give_a_graph_that_runs():
    nodes = [node("Conv", "x k", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f")]
    weights = {"k": WEIGHTS["k"] * 0, "v": weight(32, 4)}
    model = prepared([*nodes, node("MatMul", "f v", "y")], weights, ("n", 16, 8, 8))
    assert not values(quantized(model, X * 0)[0], X * 0, "y")[0].any()


def network(bias: np.ndarray | None = None, batch: str | int = "n") -> ir.Model:
    """Convolutions, one of them depthwise, and two Gemms."""
    nodes = [
        node("Conv", "x k kb", "conv", pads=[1] * 4), node("Relu", "conv", "r"),
        node("Conv", "r d db", "deep", group=32), node("Relu", "deep", "r2"),
        node("GlobalAveragePool", "r2", "g"), node("Flatten", "g", "f"),
        node("Gemm", "f fc fb", "gemm", transB=1), node("Gelu", "gemm", "r3"), node("Gemm", "r3 head hb", "y"),
    ]  # fmt: skip
    names = "k", "kb", "fc", "fb", "head"
    own = {"d": weight(32, 1, 3, 3), "db": weight(32), "hb": weight(4), **{name: WEIGHTS[name] for name in names}}
    return prepared(nodes, own | ({} if bias is None else {"fb": bias}), (batch, 16, 8, 8), (batch, 4))


def test_for_a_cpu_activations_are_uint8_and_biases_int32_in_the_steps_of_the_sums():
    model, done, ranges = quantized(network(), X, cpu=True)
    stored = constants(model)
    assert done.nodes == ("conv", "deep", "gemm")
    points = {each.inputs[2].name: each.inputs[2].dtype for each in model.graph if each.op_type == "QuantizeLinear"}
    assert points == dict.fromkeys((f"{name}_zero" for name in ("x", "conv", "r", "deep", "f")), ir.DataType.UINT8)
    low, high = ranges.histograms["x"].low, ranges.histograms["x"].high
    assert stored["x_scale"] == pytest.approx((high - low) / 255)
    assert stored["x_zero"] == round(-low * 255 / (high - low))
    assert stored["r_zero"] == 0
    for name, layer, value, own in (("kb", "conv", "x", "k"), ("fb", "gemm", "f", "fc")):
        steps = stored[f"{value}_scale"] * stored[f"{own}_scale"].astype(np.float64)
        integers = stored[f"{name}_of_{layer}_int32"]
        assert integers.dtype == np.int32
        np.testing.assert_allclose(integers, WEIGHTS[name] / steps, atol=0.51)
        assert name not in stored


def test_for_a_cpu_weights_have_7_bits():
    stored = constants(quantized(network(), X, cpu=True)[0])
    for name in ("k", "d", "fc"):
        assert stored[f"{name}_int8"].dtype == np.int8
        assert np.abs(stored[f"{name}_int8"]).max() == 64
    assert 2 * 255 * 64 <= np.iinfo(np.int16).max < 2 * 255 * 65


def test_for_a_cpu_weights_of_8_bits_are_refused():
    model = network()
    products = [each for each in find_products(model.graph, image_shapes(model), for_cpu=True) if not each.refusal]
    statistics = Statistics(record(model, [X]).histograms, {("k", 0): rounded(WEIGHTS["k"], 0)})
    with pytest.raises(AssertionError):
        qdq.quantize_for_cpu(model, products, statistics, "max")


@pytest.mark.parametrize("images", [1, 3])  # a Gemm of one row has a kernel of its own
def test_for_a_cpu_sums_are_those_of_integers(images):
    """Also where two products of 8 bits are beyond int16, at which VPMADDUBSW saturates.

    So it does with AVX2, and with AVX-512 without VNNI: "When and why do I need to try U8U8?" in ONNX Runtime's
    docs/performance/model-optimizations/quantization.md.
    """
    nodes = [
        node("Conv", "x k kb", "conv", pads=[1] * 4), node("GlobalAveragePool", "conv", "g"), node("Flatten", "g", "f"),
        node("Gemm", "f fc fb", "gemm", transB=1), node("Gelu", "gemm", "gelu"), node("MatMul", "gelu head", "y"),
    ]  # fmt: skip
    x = np.abs(X[:images])
    model = prepared(nodes, {name: np.abs(WEIGHTS[name]) for name in ("k", "kb", "fc", "fb", "head")}, ("n", 16, 8, 8))
    done = quantized(model, x, cpu=True)[0]
    found = dict(zip(("conv", "f", "gemm"), values(done, x, "conv_quantized", "f_quantized", "gemm"), strict=True))
    stored = {name: array.astype(np.float64) for name, array in constants(done).items()}
    pixels = np.clip(np.round(x / constants(done)["x_scale"]) + stored["x_zero"], 0, 255) - stored["x_zero"]
    sums = convolved(pixels, stored["k_int8"]) + stored["kb_of_conv_int32"][:, None, None]
    steps = (stored["x_scale"] * stored["k_scale"] / stored["conv_scale"])[:, None, None]
    levels = np.clip(np.round(sums * steps) + stored["conv_zero"], 0, 255)
    assert np.abs(found["conv"] - levels).max() <= 1
    assert (found["conv"] != levels).mean() < 1e-3, "but for sums at the edge of a step"
    rows = (found["f"] - stored["f_zero"]) @ stored["fc_int8"].T + stored["fb_of_gemm_int32"]
    np.testing.assert_allclose(found["gemm"], rows * stored["f_scale"] * stored["fc_scale"], rtol=1e-5)


def test_for_a_cpu_it_agrees_with_float32():
    agrees_with_float32(network(), quantized(network(), X, cpu=True)[0])


def agrees_with_float32(model: ir.Model, done: ir.Model) -> None:
    """Close to `model`, and in integer operators what it is node by node."""
    exact, found = values(model, X, "y")[0], values(done, X, "y")[0]
    assert 0 < np.abs(found - exact).max() < 0.08 * np.abs(exact).max()
    written = Session(done, outputs=["y"], threads=1, as_written=True).run(X)[0]
    np.testing.assert_allclose(found, written, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("shape", [(1, 48), (1,), (), (3, 1), (3, 48)])
def test_for_a_cpu_a_gemm_takes_a_bias_of_any_shape(shape):
    model = network(np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 20, batch=3)
    exact, found = values(model, X, "y")[0], values(quantized(model, X, cpu=True)[0], X, "y")[0]
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_onnx_runtime_makes_integer_operators_of_it(tmp_path: Path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    data = ir.serde.serialize_model(quantized(network(), X, cpu=True)[0]).SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    operators = Counter(each.op_type for each in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (operators["QLinearConv"], operators["QGemm"]) == (2, 1)
    assert operators["Conv"] + operators["FusedConv"] == 0


def test_onnx_runtime_makes_integers_of_gemms_before_an_activation_and_before_several_users(tmp_path: Path):
    nodes = [
        node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"),
        node("Gemm", "f a ab", "first"), node("Relu", "first", "relu"),  # an operator of both, in float32
        node("Gemm", "relu b bb", "second"),  # taken by a product and by a sum
        node("Gemm", "second c cb", "third"), node("Add", "second third", "sum"), node("Gemm", "sum head", "y"),
    ]  # fmt: skip
    weights = {"a": weight(16, 32), "b": weight(32, 32), "c": weight(32, 32), "head": weight(32, 4)}
    model = prepared(nodes, weights | {f"{name}b": weight(32) for name in "abc"}, ("n", 16, 8, 8))
    done = quantized(model, X, cpu=True)[0]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    data = ir.serde.serialize_model(done).SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    operators = Counter(each.op_type for each in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["QGemm"] == 3
    assert operators["Gemm"] + operators["FusedGemm"] == 1, "the classifier"
    exact, found = values(model, X, "y")[0], values(done, X, "y")[0]
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(("axis", "moved"), [(1, True), (-2, True), (2, False)])
def test_for_a_cpu_what_a_product_sums_over_is_divided_behind_it(axis, moved):
    """As in external attention: a softmax, divided by its sum over the rows, then a product with fewer rows."""
    nodes = [
        node("Conv", "x k kb", "conv", pads=[1] * 4), node("Reshape", "conv three", "t"), node("Softmax", "t", "soft"),
        node("ReduceSum", "soft axes", "total"), node("Div", "soft total", "divided"),
        node("MatMul", "small divided", "mixed"), node("ReduceMean", "mixed one", "mean", keepdims=0),
        node("MatMul", "mean head", "y"),
    ]  # fmt: skip
    own = {"axes": np.array([axis]), "small": weight(8, 32), "one": np.array([1]), "head": weight(64, 4)}
    model = prepared(nodes, {**own, **{name: WEIGHTS[name] for name in ("k", "kb", "three")}}, ("n", 16, 8, 8))
    done = quantized(model, X, cpu=True)[0]
    before = next(each for each in done.graph if each.name == "mixed").inputs[1]
    assert (before.name == "soft") is moved
    agrees_with_float32(model, done)


def test_for_a_cpu_a_division_that_another_takes_stays():
    nodes = [
        node("Conv", "x k kb", "conv", pads=[1] * 4), node("Reshape", "conv three", "t"), node("Softmax", "t", "soft"),
        node("ReduceSum", "soft one", "total"), node("Div", "soft total", "divided"),
        node("MatMul", "small divided", "mixed"), node("ReduceMax", "divided one", "most"),
        node("Add", "mixed most", "s"),
        node("ReduceMean", "s one", "mean", keepdims=0), node("MatMul", "mean head", "y"),
    ]  # fmt: skip
    own = {"small": weight(8, 32), "one": np.array([1]), "head": weight(64, 4)}
    model = prepared(nodes, {**own, **{name: WEIGHTS[name] for name in ("k", "kb", "three")}}, ("n", 16, 8, 8))
    done = quantized(model, X, cpu=True)[0]
    assert next(each for each in done.graph if each.name == "mixed").inputs[1].name == "divided"
