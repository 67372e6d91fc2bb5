"""INT8 of graphs in their new form: what is a product, along which axis its weight is rounded, and of which block."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import forms, qdq, ranges, weights
from hemf_export.calibration.blocks import OTHER, block_of, blocks
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import image_shapes, parse, prepare
from hemf_export.calibration.products import Product, find_products
from hemf_export.calibration.ranges import Histogram, source_of
from hemf_export.calibration.session import Session
from tests.calibration.forms import blocks as written
from tests.calibration.forms.blocks import Builder
from tests.calibration.forms.checks import images, run
from tests.conftest import Made


def rewritten(plain: onnx.ModelProto, only: tuple[str, ...] | None = None) -> ir.Model:
    """In the form that products are quantized in."""
    model = parse(plain)
    forms.rewrite(model, "tensorrt-rtx", only=only or forms.first("tensorrt-rtx"))
    return model


def products_of(model: ir.Model) -> dict[str, Product]:
    return {each.node: each for each in find_products(model.graph, image_shapes(model))}


def statistics(model: ir.Model, products: list[Product], x: np.ndarray) -> qdq.Statistics:
    """The ranges of what products take, on one batch."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    values |= {str(value.name): value for value in model.graph.inputs}
    names = {str(source_of(values[name]).name) for product in products for _, name in product.activations}
    inner = sorted(names - {"x0", "x"})
    found = dict(zip(inner, Session(model, outputs=inner).run(x, inner), strict=True)) if inner else {}
    histograms = {}
    for name in names:
        histograms[name] = Histogram()
        histograms[name].add(found.get(name, x))
    return qdq.Statistics(histograms)


@pytest.fixture(scope="module")
def attention() -> onnx.ModelProto:
    """Both attentions of a block with their gates, 64 channels, whose squeezes are wide enough for INT8."""
    b = Builder("")
    body = written.mixed_attention(heads=4, channels=16, slots=(16, 16), joined_up=True)
    b.nodes, b.weights, b.scope = list(body.graph.node), list(body.graph.initializer), "head"
    pooled = b.op("ReduceMean", "y0", np.array([2, 3], np.int64), keepdims=0)
    logits = b.linear(pooled, 64, 3)
    b.nodes.append(onnx.helper.make_node("Identity", [logits], ["logits"], name="output"))
    del body.graph.node[:], body.graph.initializer[:]
    body.graph.node.extend(b.nodes)
    body.graph.initializer.extend(b.weights)
    body.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3]))
    onnx.checker.check_model(body, full_check=True)
    return body


def test_the_products_of_both_attentions(attention):
    found = products_of(rewritten(attention))
    tokens, channels, slots, heads = 30, 64, 16, 4
    keys = found["fusion_stages.0.global_attention/sums/matmul"]
    assert (keys.weight, keys.axis, keys.inner, keys.refusal) == (0, 1, channels, None)
    assert keys.multiply_adds == 2 * heads * slots * channels * tokens, "zeros between the heads included"
    assert [place for place, _ in keys.activations] == [1]
    refused = {name: product.refusal for name, product in found.items() if product.refusal}
    assert Counter(refused.values()) == {
        "an attention, which is one kernel in float16": 2,
        "the classifier": 1,
    }
    gates = next(product for product in found.values() if product.operator == "Conv")
    assert (gates.axis, gates.inner, gates.multiply_adds) == (0, 4 * 49, 2 * 4 * 49 * tokens)
    assert {product.block for product in found.values()} == {"HEF 1 MixedAttention", "head"}


def test_int8_of_keys_from_the_left_is_near_and_has_a_step_for_each_of_them(attention):
    plain = rewritten(attention)
    (x,) = images(attention, 3)
    (exact,) = run(attention, x)
    product = products_of(plain)["fusion_stages.0.global_attention/sums/matmul"]
    quantized = rewritten(attention)
    qdq.quantize(quantized, [product], statistics(plain, [product], x), "max")
    weight = next(value for name, value in quantized.graph.initializers.items() if name.endswith("_int8"))
    steps = next(value for name, value in quantized.graph.initializers.items() if name.endswith("/0_scale"))
    assert weight.shape is not None
    assert steps.shape is not None
    assert (tuple(weight.shape), tuple(steps.shape)) == ((2, 64, 64), (64,))
    (found,) = Session(quantized, outputs=["logits"]).run(x, ["logits"])
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_every_product_in_int8_and_float16_runs_at_every_batch(attention):
    products = [product for product in products_of(rewritten(attention)).values() if product.refusal is None]
    assert len(products) == 2
    (x,) = images(attention, 3)
    (exact,) = run(attention, x)
    model = rewritten(attention)
    qdq.quantize(model, products, statistics(rewritten(attention), products, x), "max")
    forms.rewrite(model, "tensorrt-rtx", only=forms.last("tensorrt-rtx"))
    to_float16(model)
    for batch in (1, 3):
        (found,) = run(ir.serde.serialize_model(emulate(model)), x[:batch])
        assert np.abs(found - exact[:batch]).max() < 0.1 * np.abs(exact).max()


def test_several_weights_in_one_are_refused_where_they_come_second():
    """ONNX Runtime's kernel takes no scale a column for them: a search would end with an error."""
    b = Builder()
    product = b.op("MatMul", "x", b.normal(2, 32, 24))
    logits = b.op("MatMul", b.op("Relu", product), b.normal(24, 4))
    plain = b.model({"x": ["n", 2, 5, 32]}, {logits: ["n", 2, 5, 4]})
    found = products_of(parse(plain))[product]
    assert (found.axis, found.inner, found.multiply_adds) == (2, 32, 2 * 5 * 32 * 24)
    assert found.refusal is not None
    assert "several weights" in found.refusal


def test_products_on_maps_are_those_on_rows():
    """An MLP, as Gemms and as 1×1 convolutions: work, inner length, output channels and moments are the same."""
    b = Builder("fusion_stages.1.mlp")
    rows = b.reshape(b.transpose("x", *written.MAPS_TO_PIXELS), -1, 16)
    out = b.op("Add", rows, b.linear(b.op("Gelu", b.linear(rows, 16, 32)), 32, 16))
    maps = b.transpose(b.reshape(out, -1, 4, 5, 16), *written.PIXELS_TO_MAPS)
    pooled = b.op("ReduceMean", maps, np.array([2, 3], np.int64), keepdims=0)
    plain = b.model({"x": ["n", 16, 4, 5]}, {b.linear(pooled, 16, 3): ["n", 3]})
    before, after = parse(plain), rewritten(plain)
    told = [list(products_of(model).values())[:2] for model in (before, after)]
    assert [product.operator for product in told[1]] == ["Conv", "Conv"]
    (x,) = images(plain, 3)
    for one, other in zip(*told, strict=True):
        assert (one.axis, one.inner, one.multiply_adds, one.block) == (
            other.axis, other.inner, other.multiply_adds, other.block,
        )  # fmt: skip
        assert one.refusal is other.refusal is None
    moment = []
    for model, products in zip((before, after), told, strict=True):
        nodes = {node.name: node for node in model.graph}
        views = [weights.view_of(nodes[product.node], product) for product in products]
        recorded = weights.record_moments(model, [view for view in views if view is not None], [x])
        moment.append([recorded[view] for view in views if view is not None])
    for one, other in zip(*moment, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def network(whole_network: Made) -> tuple[ir.Model, ir.Model]:
    """The tiny network as it was exported, and in its form."""
    plain, model = (prepare(onnx.load(whole_network.onnx)) for _ in range(2))
    forms.rewrite(model, "tensorrt-rtx")
    return plain, model


def test_new_nodes_are_of_the_block_that_they_were_written_for(network):
    plain, model = network
    before, after = blocks(plain.graph), blocks(model.graph)
    assert set(after.values()) == set(before.values())
    assert Counter(after.values())[OTHER] <= Counter(before.values())[OTHER]
    for node in model.graph:
        if any(part in str(node.name) for part in ("/shifts/", "/steps/", "/sums/", "/maps/")):
            assert block_of(str(node.name)) is not None, node.name


def test_no_work_is_lost_or_made_up(network):
    """By block: what isn't in the plain graph is the padding of heads and the zeros between keys."""
    plain, model = network
    work = []
    for graph in (plain, rewritten_again(plain)):
        found: Counter[str] = Counter()
        for product in find_products(graph.graph, image_shapes(graph)):
            assert product.counted, product.node
            found[product.block] += product.multiply_adds
        work.append(found)
    before, after = work
    assert before.keys() == after.keys()
    for block, count in before.items():
        if "MixedAttention" in block or block.startswith("EGF"):
            assert count * 0.5 < after[block] < 12 * count, block
        else:
            assert after[block] == count, block
    assert model.graph is not plain.graph


def rewritten_again(plain: ir.Model) -> ir.Model:
    model = ir.serde.deserialize_model(ir.serde.serialize_model(plain))
    forms.rewrite(model, "tensorrt-rtx", only=forms.first("tensorrt-rtx"))
    return model


def test_ranges_are_recorded_of_all_values(network):
    """The values of the new form, its sums and masks included, are finite and seen by every pass of calibration."""
    _, model = network
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    found = ranges.record(model, [x])
    wanted = [name for name in ranges.float_values(model.graph) if "/sums/" in name or "/shifts/" in name]
    assert wanted
    assert set(wanted) <= set(found.histograms)
    assert all(np.isfinite(found.histograms[name].largest) for name in wanted)
