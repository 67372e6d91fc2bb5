"""MHEA as an attention over its slots, two of a fusion block stacked, and the gates behind them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from hemf_export.calibration import forms
from hemf_export.calibration.forms.matching import WIDE
from hemf_export.calibration.forms.mixed_attention import GATE
from hemf_export.calibration.graphs import parse
from tests.calibration.forms import blocks
from tests.calibration.forms.blocks import Builder
from tests.calibration.forms.checks import TOLERANCE, assert_same, difference, images, kinds, rewritten, run

NAME = "mixed-attention"


@pytest.mark.parametrize("channels", [4, 8, 12])
@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("branches", [1, 2])
def test_it_computes_the_same(channels, gates, branches):
    plain = blocks.mixed_attention(channels=channels, gates=gates, branches=branches, seed=channels)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: branches}
    assert kinds(made)["Softmax"] == 1, "two are one"
    assert_same(plain, made)
    made, _ = rewritten(plain)
    assert_same(plain, made)


@pytest.mark.parametrize(("opset", "batch"), list(itertools.product((18, 20, 23), ("n", 1, 3))))
def test_of_any_opset_and_batch(opset, batch):
    plain = blocks.mixed_attention(opset=opset, batch=batch)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 2}
    assert_same(plain, made)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (8, 8)])
def test_of_any_size(height, width):
    plain = blocks.mixed_attention(height=height, width=width)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 2}
    assert_same(plain, made)


def test_those_behind_one_another_are_not_stacked():
    plain = blocks.mixed_attention(branches=3, chained=True)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 3}
    assert kinds(made)["Softmax"] == 3
    assert_same(plain, made)


def test_those_of_other_shapes_are_not_stacked():
    plain = blocks.mixed_attention(slots=(9, 10))
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 2}
    assert kinds(made)["Softmax"] == 2
    assert_same(plain, made)


def test_pairs_never_wait_for_one_another():
    """A gives C what it reads, and D gives it to B: stacked as (A, B) and (C, D), neither could begin."""
    b = Builder("fusion_stages.0.local_attention")
    sizes = {"heads": 2, "channels": 4, "height": 3, "width": 3, "slots": 5, "spread": 1.0, "change": ""}

    def attention(maps: str) -> str:
        return b.transpose(blocks.external_attention(b, maps, **sizes), *blocks.PIXELS_TO_MAPS)

    first, last = attention("x0"), attention("x1")  # A and D
    shape = ["n", 8, 3, 3]
    inner = [attention(last), attention(first)]  # B and C
    plain = b.model({"x0": shape, "x1": shape}, dict.fromkeys(inner, shape))
    order = list(plain.graph.node)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 4}
    assert_same(plain, made)
    # In another order of the nodes, A and B are found first.
    del plain.graph.node[:]
    starts = [next(i for i, n in enumerate(order) if n.input[0] == name) for name in ("x0", "x1", last, first)]
    parts = [order[starts[0] : starts[1]], order[starts[1] : starts[2]], order[starts[2] : starts[3]]]
    plain.graph.node.extend([*parts[1], *parts[2], *parts[0], *order[starts[3] :]])
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 4}
    assert_same(plain, made)


@pytest.mark.parametrize("change", ["divided over another axis", "divided over the tokens"])
def test_what_only_looks_like_an_attention_is_left_alone(change):
    plain = blocks.mixed_attention(change=change)
    made, found = rewritten(plain, NAME)
    assert found.places == {}
    assert kinds(made) == kinds(plain)
    assert_same(plain, rewritten(plain)[0])


@pytest.mark.parametrize("change", ["a gate with a bias", "a dilated gate", "a gate that pads itself"])
def test_gates_that_only_look_like_ours_stay_as_they_are(change):
    plain = blocks.mixed_attention(change=change)
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 2}
    assert (kinds(made)["Conv"], kinds(made)["Gemm"]) == (2, 8), "two gates, not one"
    assert_same(plain, made)
    assert_same(plain, rewritten(plain)[0])


def test_gates_whose_pixels_are_read_outside_too():
    plain = blocks.mixed_attention(change="pixels that are read outside")
    made, found = rewritten(plain, NAME)
    assert found.places == {NAME: 2}
    assert_same(plain, made)


@pytest.mark.parametrize("spread", [100.0, 300.0])
def test_where_every_weight_of_a_token_underflows_it_stays_finite(spread):
    """The softmax over tokens leaves most of them 0 of every slot, and 0/0 of the sum over slots."""
    plain = blocks.mixed_attention(spread=spread, height=8, width=8)
    given = images(plain, 2)
    assert not np.isfinite(run(plain, *given)[0]).all(), "or the plain form has no hazard here"
    made, _ = rewritten(plain)
    assert all(np.isfinite(array).all() for array in run(made, *given))


def test_large_common_logits_cancel():
    """What all logits have in common, however large, is nothing to a softmax."""
    plain = blocks.mixed_attention(gates=False, branches=1)
    worst = []
    for offset in (0.0, 50.0):
        shifted = onnx.ModelProto()
        shifted.CopyFrom(plain)
        for tensor in shifted.graph.initializer:
            if "layernormalization_1.2" in tensor.name or tensor.name.endswith("layernormalization_1.2"):
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(offset), tensor.name)
                )
        worst.append(difference(shifted, rewritten(shifted, NAME)[0], images(plain, 2)))
    assert worst[0] <= TOLERANCE
    assert worst[1] <= 100 * TOLERANCE, "float32 has seven digits of each logit"


def test_the_factors_of_a_channel_gate_are_weights_summed_in_float32():
    model = parse(blocks.mixed_attention(gates=True, branches=2))
    forms.rewrite(model, "tensorrt-rtx", only=[NAME])
    gate = [node for node in model.graph if f"/{GATE}/" in str(node.name)]
    assert {node.op_type for node in gate} == {"Reshape", "Mul", "ReduceSum", "Relu", "Sigmoid"}
    assert all(WIDE in node.metadata_props for node in gate)
    weights = [node.inputs[place] for node in gate for place in (forms.weight_inputs(node) or ())]
    assert len(weights) == 2, "the squeezes, and the excitations"
    assert all(value.shape[0] == 2 for value in weights), "of both attentions"
