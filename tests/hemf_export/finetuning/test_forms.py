"""The forms that graphs are brought to, in PyTorch: ONNX Runtime's numbers, and gradients for every weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from hemf_export.calibration import forms
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import infer, parse
from hemf_export.files.errors import BadInputError
from hemf_export.finetuning.network import GraphNetwork, trained_initializers
from tests.calibration.forms import blocks
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import images, run


def norm_and_depthwise() -> onnx.ModelProto:
    """A norm in steps, a depthwise sum with strides, an average, an MLP on maps, and patches."""
    b = Builder("local_stages.0.0")
    shape = ["n", 8, 8, 8]
    norm = b.norm(b.transpose("x", *MAPS_TO_PIXELS), 8)
    maps = b.transpose(b.op("Mul", norm, b.op("Sigmoid", norm)), *PIXELS_TO_MAPS)
    maps = b.op("Conv", maps, b.normal(8, 1, 5, 5, scale=0.3), b.normal(8), group=8, pads=[2, 2, 2, 2], strides=[2, 2])
    rows = b.reshape(b.transpose(maps, *MAPS_TO_PIXELS), -1, 8)
    out = b.op("Add", rows, b.linear(b.op("Gelu", b.linear(rows, 8, 16)), 16, 8))
    maps = b.transpose(b.reshape(out, -1, 4, 4, 8), *PIXELS_TO_MAPS)
    patches = b.reshape(b.transpose(maps, *MAPS_TO_PIXELS), -1, 2, 2, 2, 16)
    patches = b.reshape(b.transpose(patches, 0, 1, 3, 2, 4), -1, 32)
    maps = b.transpose(b.reshape(b.linear(patches, 32, 6), -1, 2, 2, 6), *PIXELS_TO_MAPS)
    mean = b.op("AveragePool", maps, kernel_shape=[2, 2], strides=[2, 2])
    return b.model({"x": shape}, {b.reshape(mean, -1, 6): ["n", 6]})


BLOCKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "retention": lambda: blocks.retention(channels=6),
    "both attentions": lambda: blocks.mixed_attention(channels=6, joined_up=True),
    "one attention": lambda: blocks.mixed_attention(channels=8, branches=1),
    "norm and depthwise": norm_and_depthwise,
}


def converted(plain: onnx.ModelProto) -> ir.Model:
    model = parse(plain)
    assert forms.rewrite(model, "tensorrt-rtx").places
    to_float16(model)
    model = parse(ir.serde.serialize_model(model))  # as from a file
    infer(model)
    return model


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("half", [False, True])
def test_it_computes_what_onnx_runtime_does(name, half):
    plain = BLOCKS[name]()
    given = images(plain, 3)
    if half:
        model = converted(plain)
        (expected, *_) = run(ir.serde.serialize_model(emulate(model)), *given)
    else:
        model = parse(plain)
        forms.rewrite(model, "tensorrt-rtx")
        (expected, *_) = run(plain, *given)
    with torch.no_grad():
        found = GraphNetwork(model, trained_initializers(model.graph))(torch.from_numpy(given[0])).numpy()
    expected = expected.reshape(3, -1)
    # In float16 another order of sums rounds some value the other way.
    bound = 4 * 2.0**-11 if half else 1e-5
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_every_weight_and_training_keeps_the_graph(name):
    plain = BLOCKS[name]()
    model = converted(plain)
    before = ir.serde.serialize_model(model)
    trained = list(trained_initializers(model.graph))
    network = GraphNetwork(model, trained)
    (given,) = images(plain, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    target = network(torch.from_numpy(given)).detach() * 0.9 + 0.1
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (network(torch.from_numpy(given)) - target).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert len(list(network.parameters())) == len(trained)
    assert losses[-1] < losses[0]
    network.store()
    made = ir.serde.serialize_model(model)
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in before.graph.node]
    with torch.no_grad():
        found = network(torch.from_numpy(given)).numpy()
    (expected, *_) = run(ir.serde.serialize_model(emulate(model)), given)
    expected = expected.reshape(3, -1)
    assert np.abs(found - expected).max() <= 4 * 2.0**-11 * np.abs(expected).max(), "what was trained is stored"


def test_zeros_that_fill_a_head_stay_zero():
    """Weights of slots that no channel uses get no gradient: the aligned form stays one of the network's heads."""
    model = converted(blocks.retention(channels=6))
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    trained = [name for name in trained_initializers(model.graph) if arrays[name].ndim > 1]
    padded = {name: arrays[name] == 0 for name in trained if (arrays[name] == 0).mean() > 0.2}
    assert len(padded) >= 3, "query with key, value, output"
    network = GraphNetwork(model, trained)
    given = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 24, 5, 6), dtype=np.float32))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        network(given).square().mean().backward()
        optimizer.step()
    network.store()
    for name, zeros in padded.items():
        after = model.graph.initializers[name].const_value.numpy()
        assert not np.array_equal(after, arrays[name]), "it was trained"
        assert not after[zeros].any()


def test_keys_that_stand_in_a_graph_twice_are_not_trained():
    model = converted(blocks.mixed_attention(joined_up=True))
    trained = set(trained_initializers(model.graph))
    keys = [
        str(node.inputs[0].name)
        for node in model.graph
        if node.op_type == "MatMul" and node.inputs[0] is not None and node.inputs[0].const_value is not None
    ]
    assert len(keys) == 1
    assert not trained & set(keys)
    assert any(name.endswith("_fp16") for name in trained)


@pytest.mark.parametrize(
    "text",
    [
        "s = Slice (x, one, big, axis, two)",
        "s = Slice (x, zero, minus)",
        "s = Pad (x, pads, filling)",
        "s = Pad <mode = \"constant\"> (x, few, filling, axis)",
        "a, s = Split <axis = 1> (x, parts)",
        "s, a = Split <axis = 2, num_outputs = 2> (x)",
        "s = ReduceLogSumExp <keepdims = 0> (x, axis)",
        "p = Mul (x, x) q = Add (p, filling) r = Sqrt (q) s = Reciprocal (r)",
    ],
)  # fmt: skip
def test_an_operator_is_what_onnx_says(text):
    proto = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 5, 7] x) => (float y)
        <int64[1] one = {{1}}, int64[1] big = {{9223372036854775807}}, int64[1] axis = {{2}}, int64[1] two = {{2}},
         int64[3] zero = {{0, 1, 2}}, int64[3] minus = {{2, -1, -2}}, int64[6] pads = {{0, 1, 2, 0, 0, 3}},
         int64[2] few = {{1, 2}}, float filling = {{0.5}}, int64[2] parts = {{2, 3}}, float half = {{2.0}}>
        {{ {text} y = Mul (s, half) }}""")
    given = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    (expected,) = run(proto, given)
    images = torch.from_numpy(given).requires_grad_()
    found = GraphNetwork(parse(proto), ())(images)
    np.testing.assert_allclose(found.detach().numpy(), expected.reshape(2, -1), rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert images.grad is not None
    assert bool(images.grad.abs().sum() > 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y = Slice (x, big, zero, axis, back)", "backwards"),
        ('y = Pad <mode = "reflect"> (x, pads)', "mode reflect"),
        ("y, mean = LayerNormalization (x, scale) z = Add (mean, y)", "other outputs"),
    ],
)
def test_what_is_not_supported_is_said(text, said):
    proto = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 4] x) => (float y)
        <int64[1] big = {{3}}, int64[1] zero = {{0}}, int64[1] axis = {{1}}, int64[1] back = {{-1}},
         int64[4] pads = {{0, 1, 0, 1}}, float[4] scale = {{1, 2, 3, 4}}>
        {{ {text} }}""")
    with pytest.raises(BadInputError, match=said):
        GraphNetwork(parse(proto), ())(torch.zeros(2, 4))
