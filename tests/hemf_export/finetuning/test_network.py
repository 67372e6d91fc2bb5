"""A quantized graph as a module: ONNX Runtime's logits, and the same graph when it is stored again."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common
from onnxruntime import InferenceSession

from hemf_export.files.errors import BadInputError
from hemf_export.finetuning.network import GraphNetwork

WEIGHTS = ("kernel", "shift", "matrix", "bias", "gain", "offset")


def quantized_graph() -> onnx.ModelProto:
    """A convolution in INT8 with a scale a channel, a layer norm, and a Gemm in INT8 with its bias in int32."""
    generator = np.random.default_rng(0)
    made = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 3, 8, 8] x) => (float[n, 5] y)
        <float xs = {0.03}, int8 xz = {3}, float hs = {0.02}, uint8 hz = {99}>
        {
            xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz)
            kd = DequantizeLinear <axis = 0> (kernel, ks, kz)
            c = Conv <pads = [1, 1, 1, 1]> (xd, kd, shift)
            t = Transpose <perm = [0, 2, 3, 1]> (c)
            n1 = LayerNormalization <axis = -1, epsilon = 1e-06> (t, gain, offset)
            g1 = Gelu (n1)
            m = ReduceMean <keepdims = 0> (g1, axes)
            hq = QuantizeLinear(m, hs, hz) hd = DequantizeLinear(hq, hs, hz)
            md = DequantizeLinear <axis = 0> (matrix, ms, mz)
            bd = DequantizeLinear <axis = 0> (bias, bs, bz)
            y = Gemm <transB = 1> (hd, md, bd)
        }""")
    scales = {"ks": generator.uniform(0.01, 0.02, 4), "ms": generator.uniform(0.01, 0.02, 5)}
    arrays = {
        "kernel": generator.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "kz": np.zeros(4, np.int8),
        "matrix": generator.integers(-127, 128, (5, 4)).astype(np.int8), "mz": np.zeros(5, np.int8),
        "bias": generator.integers(-5000, 5000, 5).astype(np.int32), "bz": np.zeros(5, np.int32),
        "bs": (0.02 * scales["ms"]).astype(np.float32), "axes": np.array([1, 2]),
        "shift": generator.normal(size=4).astype(np.float32), "gain": generator.uniform(0.5, 2, 4).astype(np.float32),
        "offset": generator.normal(size=4).astype(np.float32),
        **{name: value.astype(np.float32) for name, value in scales.items()},
    }  # fmt: skip
    made.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


def loaded(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    common.ShapeInferencePass()(model)
    return model


def runtime(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, 3, 8, 8)).astype(np.float32)


def test_it_computes_what_onnx_runtime_does(images):
    proto = quantized_graph()
    network = GraphNetwork(loaded(proto), WEIGHTS)
    found, expected = network(torch.from_numpy(images)).detach().numpy(), runtime(proto, images)
    # A mean at the edge of a step may fall on either side: 0.02 there, times a weight of at most 2.5.
    assert np.median(np.abs(found - expected)) < 1e-5
    assert np.abs(found - expected).max() < 0.06


def test_it_computes_on_another_device_alone(images):
    """On "meta", as on a GPU, PyTorch refuses tensors of two devices; shapes and axes are numbers by then."""
    network = GraphNetwork(loaded(quantized_graph()), WEIGHTS).to("meta")
    network(torch.from_numpy(images).to("meta")).sum().backward()
    assert {parameter.grad.device.type for parameter in network.parameters()} == {"meta"}


def test_stored_untrained_it_is_the_same_graph():
    proto = quantized_graph()
    model = loaded(proto)
    GraphNetwork(model, WEIGHTS).store()
    stored = {tensor.name: tensor for tensor in ir.serde.serialize_model(model).graph.initializer}
    for tensor in proto.graph.initializer:
        assert stored[tensor.name].data_type == tensor.data_type
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(stored[tensor.name]), onnx.numpy_helper.to_array(tensor), err_msg=tensor.name
        )


def test_trained_and_stored_it_is_the_same_graph_with_other_weights(images):
    proto = quantized_graph()
    model = loaded(proto)
    network = GraphNetwork(model, WEIGHTS)
    target = torch.eye(5)[[0, 1, 2, 3, 4, 0]] * 4
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(torch.from_numpy(images)) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    network.store()
    made = ir.serde.serialize_model(model)
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in proto.graph.node]
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == set(WEIGHTS), "scales and zero points stay"
    assert after["kernel"].dtype == np.int8
    assert after["kernel"].min() >= -127, "symmetric"
    with torch.no_grad():
        trained = network(torch.from_numpy(images)).numpy()
    assert np.median(np.abs(runtime(made, images) - trained)) < 1e-4, "what was trained is what is shipped"


def test_weights_of_7_bits_are_trained_in_7_bits():
    """A CPU's: with more, sums of two products are beyond int16 (`qdq.CPU_LEVELS`)."""
    proto = quantized_graph()
    tensor = next(each for each in proto.graph.initializer if each.name == "matrix")
    halves = (onnx.numpy_helper.to_array(tensor).astype(np.float64) * 64 / 127).round().astype(np.int8)
    tensor.CopyFrom(onnx.numpy_helper.from_array(halves, "matrix"))
    model = loaded(proto)
    network = GraphNetwork(model, WEIGHTS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 4
    network.store()
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert np.abs(stored["matrix"]).max() == 64
    assert np.abs(stored["kernel"]).max() == 127
    assert np.abs(stored["bias"]).max() > 5000


def test_float16_is_rounded_as_emulation_does():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 4] x) => (float[n, 4] y)
        { h = Cast <to = 10> (x) a = Mul(h, w) b = Add(a, w) y = Cast <to = 1> (b) }""")
    values = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    half = np.array([0.1, 0.2, 0.3, 3.0], np.float16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(half, "w"))
    found = GraphNetwork(loaded(proto), ("w",))(torch.from_numpy(values)).detach().numpy()
    np.testing.assert_array_equal(found, (values.astype(np.float16) * half + half).astype(np.float32))


def test_gradients_reach_every_weight_and_nothing_else(images):
    network = GraphNetwork(loaded(quantized_graph()), WEIGHTS)
    network(torch.from_numpy(images)).square().sum().backward()
    found = list(network.parameters())
    assert len(found) == len(WEIGHTS)
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in found)


@pytest.mark.parametrize("text", ["y = Det(x)", "y = Erf(x)"])
def test_an_operator_that_is_not_known_is_named(text):
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[2, 2] x) => (float y) {{ {text} }}'
    )
    proto.graph.node[0].name = "strange"
    with pytest.raises(BadInputError, match=rf"Node strange \({proto.graph.node[0].op_type}\)"):
        GraphNetwork(loaded(proto), ())


def test_padding_that_differs_from_side_to_side_is_refused():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) <float[1, 1, 2, 2] w = {1, 2, 3, 4}>
        { y = Conv <pads = [0, 0, 1, 1]> (x, w) }""")
    with pytest.raises(BadInputError, match="side to side"):
        GraphNetwork(loaded(proto), ())(torch.zeros(1, 1, 4, 4))
