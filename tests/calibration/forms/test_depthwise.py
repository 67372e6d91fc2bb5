"""Depthwise convolutions and small averages as sums of shifted maps, and those that are something else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemf_export.calibration import forms
from hemf_export.calibration.forms.matching import WIDE
from hemf_export.calibration.graphs import parse
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import assert_same, kinds, rewritten

C, H, W = 5, 11, 9
SHAPE = ["n", C, H, W]


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    bias=st.booleans(),
    turned=st.booleans(),
    read_twice=st.booleans(),
)
def test_every_size_stride_and_padding(kernel, strides, pads, bias, turned, read_twice):
    b = Builder(seed=sum(kernel))
    maps = b.transpose(b.op("Relu", b.transpose("x", *MAPS_TO_PIXELS)), *PIXELS_TO_MAPS) if turned else "x"
    weights = [b.normal(C, 1, *kernel), *([b.normal(C)] if bias else [])]
    out = b.op("Conv", maps, *weights, group=C, pads=list(pads), strides=list(strides))
    shape = ["n", C]
    for place, size in enumerate((H, W)):
        shape.append((size + pads[place] + pads[place + 2] - kernel[place]) // strides[place] + 1)
    outputs = {out: shape}
    if read_twice:
        outputs[b.op("Gelu", b.transpose(out, *MAPS_TO_PIXELS))] = ["n", *shape[2:], C]
    plain = b.model({"x": SHAPE}, outputs)
    made, found = rewritten(plain, "depthwise")
    assert found.places == {"depthwise": 1}
    assert kinds(made)["Conv"] == 0
    assert_same(plain, made, (1, 2))


@pytest.mark.parametrize(("size", "shape"), [((2, 2), (5, 4)), ((1, 3), (11, 3)), ((2, 1), (5, 9))])
def test_averages_of_pixels_of_their_own(size, shape):
    b = Builder()
    out = b.op("AveragePool", "x", kernel_shape=list(size), strides=list(size))
    plain = b.model({"x": SHAPE}, {out: ["n", C, *shape]})
    made, found = rewritten(plain, "depthwise")
    assert found.places == {"depthwise": 1}
    assert kinds(made)["AveragePool"] == 0
    assert_same(plain, made)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"ceil_mode": 1},
        {"auto_pad": "SAME_UPPER"},
        {"dilations": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [3, 3]},
    ],
    ids=str,
)
def test_other_averages_are_left_alone(attributes):
    b = Builder()
    out = b.op("AveragePool", "x", **{"kernel_shape": [2, 2], "strides": [2, 2], **attributes})
    plain = b.model({"x": SHAPE}, {out: ["n", C, "height", "width"]})
    made, found = rewritten(plain, "depthwise")
    assert found.places == {}
    assert kinds(made) == kinds(plain)
    assert_same(plain, made)


@pytest.mark.parametrize("change", ["dilated", "padded by itself", "computed weights", "computed bias", "8×8",
                                    "two of each channel", "two groups", "dense"])  # fmt: skip
def test_other_convolutions_are_left_alone(change):
    b = Builder()
    weight, attributes, given_channels = b.normal(6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}, 6
    bias = b.normal(12 if change == "two of each channel" else 6)
    if change == "dilated":
        attributes["dilations"] = [2, 2]
    if change == "padded by itself":
        attributes = {"group": 6, "auto_pad": "SAME_LOWER"}
    if change == "computed weights":
        weight = b.op("Relu", weight)
    if change == "computed bias":
        bias = b.op("Relu", bias)
    if change == "8×8":
        weight = b.normal(6, 1, 8, 8)
    if change == "two of each channel":
        weight, given_channels = b.normal(12, 1, 3, 3), 12
    if change == "two groups":
        weight, attributes["group"] = b.normal(6, 3, 3, 3), 2
    if change == "dense":
        weight, attributes["group"] = b.normal(6, 6, 3, 3), 1
    out = b.op("Conv", "x", weight, bias, **attributes)
    plain = b.model({"x": ["n", 6, H, W]}, {out: ["n", given_channels, "height", "width"]})
    made, found = rewritten(plain, "depthwise")
    assert found.places == {}
    assert kinds(made) == kinds(plain)


def test_one_channel_is_no_depthwise_convolution():
    b = Builder()
    out = b.op("Conv", "x", b.normal(1, 1, 3, 3), pads=[1, 1, 1, 1])
    plain = b.model({"x": ["n", 1, H, W]}, {out: ["n", 1, H, W]})
    assert rewritten(plain, "depthwise")[1].places == {}


def test_one_behind_another_needs_no_turn_between_them():
    b = Builder()
    maps = "x"
    for _ in range(3):
        maps = b.op("Conv", maps, b.normal(C, 1, 3, 3, scale=0.3), b.normal(C), group=C, pads=[1, 1, 1, 1])
    plain = b.model({"x": SHAPE}, {maps: SHAPE})
    made, found = rewritten(plain, "depthwise")
    assert found.places == {"depthwise": 3}
    assert kinds(made)["Transpose"] == 2
    assert_same(plain, made)


def test_all_of_a_sum_is_float32_inside_its_kernel():
    b = Builder()
    out = b.op("Conv", "x", b.normal(C, 1, 3, 3), b.normal(C), group=C, pads=[1, 1, 1, 1])
    model = parse(b.model({"x": SHAPE}, {out: SHAPE}))
    forms.rewrite(model, "tensorrt-rtx")
    wide = [node.op_type for node in model.graph if WIDE in node.metadata_props]
    assert Counter(wide) == {"Slice": 6, "Mul": 9, "Add": 9}, "cast once, behind the padding"
    taps = [place for node in model.graph for place in (forms.weight_inputs(node) or ())]
    assert taps == [1] * 10, "nine taps and the bias are weights"
    assert all(str(node.name).startswith("block/shifts/") for node in model.graph if WIDE in node.metadata_props)
    assert all(forms.weight_inputs(node) is None for node in model.graph if node.op_type == "Transpose")
