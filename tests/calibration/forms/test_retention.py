"""Retention in its aligned form: the same numbers, heads of 16 channels, 24, …, and nothing else taken for one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.calibration.forms import blocks
from tests.calibration.forms.checks import assert_same, kinds, rewritten

LOOKALIKES = (
    *("another table for each head", "another angle for each of a pair", "a turn of the other direction"),
    *("other tables for the key", "a scaled product", "a computed turn", "a computed weight", "a dense convolution"),
    "weights that are read outside",
)


@pytest.mark.parametrize("channels", [4, 6, 8, 12, 16, 18])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_computes_the_same_with_aligned_heads(channels, seed):
    plain = blocks.retention(channels=channels, seed=seed)
    made, found = rewritten(plain, "retention")
    assert found.places == {"retention": 1}
    assert_same(plain, made)
    found_heads = {
        tuple(array[-2:])
        for tensor in made.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and len(array := numpy_helper.to_array(tensor)) == 5
    }
    aligned = max(16, -(-channels // 8) * 8)
    assert found_heads == {(8, aligned), (4, aligned)}, "query and key in one, and the value"


@pytest.mark.parametrize(("opset", "batch"), list(itertools.product((18, 20, 23), ("n", 1, 3))))
def test_of_any_opset_and_batch(opset, batch):
    plain = blocks.retention(opset=opset, batch=batch)
    made, found = rewritten(plain, "retention")
    assert found.places == {"retention": 1}
    assert_same(plain, made)


def test_less_is_left_of_it():
    plain = blocks.retention()
    made, _ = rewritten(plain, "retention")
    before, after = kinds(plain), kinds(made)
    assert (before["Gemm"], after["Gemm"]) == (4, 3), "query and key are one product"
    assert (before["MatMul"], after["MatMul"]) == (6, 4), "no turn is a product"


@pytest.mark.parametrize("change", LOOKALIKES)
def test_what_only_looks_like_one_is_left_alone(change):
    plain = blocks.retention(change=change)
    made, found = rewritten(plain, "retention")
    assert found.places == {}
    assert kinds(made) == kinds(plain)
    made, _ = rewritten(plain)
    assert_same(plain, made)


def test_channels_that_fill_a_head_are_where_they_belong():
    """A head of 4 among 16 slots: pairs apart, zeros between; nothing but zeros is added."""
    plain = blocks.retention(channels=4)
    made, _ = rewritten(plain, "retention")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    joint = next(weights[node.input[1]] for node in made.graph.node if node.op_type == "Gemm")
    assert joint.shape == (2 * 4 * 16, 16)
    used = np.abs(joint).sum(1).reshape(8, 16) > 0
    assert (used == ([True] * 2 + [False] * 6) * 2).all()
