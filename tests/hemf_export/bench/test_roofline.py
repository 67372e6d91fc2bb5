"""Operations and bytes of graphs small enough to be counted by hand, and the times that follow from them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.bench import roofline
from hemf_export.engines.targets import T4, Chip
from hemf_export.files.errors import UsageError
from hemf_export.models.model_file import OnnxFile
from hemf_export.networks.hemf.count import Count, count_parts
from tests.conftest import TINY

# A rate of 1e9 of everything: operations and bytes are nanoseconds.
SLOW = Chip("slow", 1, bandwidth_gb_s=1, tflops_fp32=1e-3, tflops_fp16=2e-3, tops_int8=4e-3, source="made up")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def model(nodes, weights, shape=(3, 8, 8), outputs=(5,), batch="n", kind=FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "made by hand",
        [helper.make_tensor_value_info("x", kind, [batch, *shape])],
        [helper.make_tensor_value_info("y", kind, [batch, *outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def weights() -> dict[str, np.ndarray]:
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "g": (4, 5), "c": (5,)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def classifier(batch="n", conv_input="x", conv_weight="w", before=(), **more) -> onnx.ModelProto:
    """A convolution 3×3 to 4 channels with ReLU, the mean over 8 × 8, a product to 5 logits."""
    nodes = [
        *before,
        helper.make_node("Conv", [conv_input, conv_weight, "b"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"], "relu"),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["row"], "flat"),
        helper.make_node("Gemm", ["row", "g", "c"], ["y"], "head"),
    ]
    return model(nodes, weights() | more, batch=batch)


def test_products_and_kernels_of_a_graph_counted_by_hand():
    cost = roofline.count_graph(classifier())
    assert [(one.node, one.multiply_adds) for one in cost.products] == [("conv", 4 * 64 * 27), ("head", 4 * 5)]
    assert [kernel.nodes for kernel in cost.kernels] == [["conv", "relu"], ["pool", "flat"], ["head"]]
    assert [kernel.weight_bytes for kernel in cost.kernels] == [4 * (108 + 4), 0, 4 * (20 + 5)]
    moved = [(kernel.read_bytes, kernel.written_bytes) for kernel in cost.kernels]
    assert moved == [(4 * 3 * 64, 4 * 4 * 64), (4 * 4 * 64, 4 * 4), (4 * 4, 4 * 5)]
    assert cost.moved_bytes(8) == 548 + 8 * 2868
    assert cost.least_bytes(8) == 548 + 8 * (768 + 20)
    assert cost.operations(8) == {"fp32": 2 * 8 * 6932}
    assert cost.uncounted == 0


def test_float16_assumed_of_a_float32_graph_is_half_of_everything():
    cost = roofline.count_graph(classifier(), "fp16")
    assert (cost.moved_bytes(1), cost.moved_bytes(3)) == ((548 + 2868) // 2, (548 + 3 * 2868) // 2)
    assert cost.operations(1) == {"fp16": 2 * 6932}


def test_int8_assumed_is_in_the_products_that_int8_is_used_for_and_not_in_the_classifier():
    cost = roofline.count_graph(classifier(), "int8")
    assert cost.operations(1) == {"int8": 2 * 6912, "fp16": 2 * 20}
    first, _, last = cost.kernels
    assert (first.weight_bytes, first.read_bytes, first.written_bytes) == (108 + 2 * 4, 3 * 64, 2 * 4 * 64)
    assert (last.weight_bytes, last.read_bytes) == (2 * 25, 2 * 4)


def test_a_quantized_graph_reads_one_byte_a_value():
    scales = {"s": np.float32(0.1), "z": np.int8(0), "w8": np.ones((4, 3, 3, 3), np.int8)}
    before = (
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["wd"], "weights"),
    )
    proto = classifier(conv_input="d", conv_weight="wd", before=before, **scales)
    cost = roofline.count_graph(proto)
    assert cost.operations(1) == {"int8": 2 * 6912, "fp32": 2 * 20}
    quantize, conv = cost.kernels[:2]
    assert (quantize.read_bytes, quantize.written_bytes) == (4 * 192, 192)
    assert (conv.read_bytes, conv.weight_bytes) == (192, 108 + 4 * 4 + 4 + 1), "weights, bias, scale, zero point"


def test_a_value_that_is_only_widened_for_its_reader_is_stored_narrow():
    nodes = [
        helper.make_node("MatMul", ["x", "g"], ["p"], "product"),
        helper.make_node("Cast", ["p"], ["wide"], "widen", to=FLOAT),
        helper.make_node("LayerNormalization", ["wide", "c"], ["normed"], "norm"),
        helper.make_node("Cast", ["normed"], ["y"], "narrow", to=HALF),
    ]
    made = {"g": np.ones((4, 5), np.float16), "c": np.ones(5, np.float32)}
    cost = roofline.count_graph(model(nodes, made, shape=(4,), kind=HALF))
    product, norm = cost.kernels
    assert (product.read_bytes, product.written_bytes) == (2 * 4, 2 * 5)
    assert (norm.read_bytes, norm.written_bytes, norm.weight_bytes) == (2 * 5, 2 * 5, 4 * 5)
    assert cost.operations(1) == {"fp16": 2 * 20}


def test_a_value_that_two_kernels_read_is_written_once_and_read_twice():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"], "pool"),
        helper.make_node("GlobalMaxPool", ["maps"], ["most"], "most"),
        helper.make_node("Add", ["means", "most"], ["y"], "add"),
    ]
    conv, pool, most = roofline.count_graph(model(nodes, weights(), outputs=(4, 1, 1))).kernels
    assert most.nodes == ["most", "add"], "in the kernel of its last input"
    assert (conv.written_bytes, pool.read_bytes) == (1024, 1024)
    assert most.read_bytes == 1024 + 16


def test_a_fixed_batch_is_counted_by_image():
    fixed, free = roofline.count_graph(classifier(batch=4)), roofline.count_graph(classifier())
    assert fixed.moved_bytes(4) == free.moved_bytes(4)
    assert fixed.operations(4) == free.operations(4)


def test_the_time_is_the_longer_of_operations_and_bytes_kernel_by_kernel():
    floor = roofline.floor_of_graph(roofline.count_graph(classifier()), SLOW, 1, precision="fp32", source="by hand")
    conv, pool, head = 2 * 6912, 1024 + 16, 100 + 36
    assert floor.floor_ms == pytest.approx((conv + pool + head) * 1e-6)
    assert floor.memory_bound == pytest.approx((pool + head) / (conv + pool + head))
    assert floor.least_ms == pytest.approx(2 * 6932 * 1e-6)
    assert floor.images_per_second == pytest.approx(1e9 / (conv + pool + head))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_has_its_rate(precision):
    cost = roofline.count_graph(classifier(), precision)
    rates = {"fp32": 1, "fp16": 2, "int8": 4}
    expected = sum(number / rates[kind] for kind, number in cost.operations(1000).items()) * 1e-6
    assert roofline.floor_of_graph(cost, SLOW, 1000, precision=precision, source="").least_ms == pytest.approx(expected)


def test_a_compute_capability_alone_has_no_roofline():
    with pytest.raises(UsageError, match="sm_75 is no product"):
        roofline.target_with_chip("sm_75")
    assert roofline.target_with_chip("T4")[1] is T4


def test_our_graph_has_the_products_that_the_equations_have(whole_network):
    """The rotation of pairs is a product in the graph and none in the equations."""
    cost = roofline.count_graph(OnnxFile.open(whole_network.onnx).read_ours()[0])
    assert cost.uncounted == 0
    found = cost.multiply_adds - sum(one.multiply_adds for one in cost.products if one.moves)
    assert found == sum(count_parts(TINY).values(), Count()).products


def test_the_form_for_an_engine_turns_nothing_by_a_product(whole_network):
    """Its heads of 4 channels have room for 8, so products are more; depthwise convolutions are none any more."""
    plain, form = (
        roofline.count_graph(OnnxFile.open(path).read_ours()[0]) for path in (whole_network.onnx, whole_network.half)
    )
    assert form.uncounted == 0
    assert [one for one in plain.products if one.moves]
    assert not [one for one in form.products if one.moves]
    assert plain.multiply_adds < form.multiply_adds < 2 * plain.multiply_adds
