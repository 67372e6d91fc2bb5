"""Layer norms in two steps where more than products read them, and those that stay one operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hemf_export.calibration import forms
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.forms.matching import WIDE
from hemf_export.calibration.fp16 import find_islands, to_float16
from hemf_export.calibration.graphs import parse
from hemf_export.calibration.session import Session
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import assert_same, images, kinds, rewritten, run

C, H, W = 8, 4, 5
SHAPE = ["n", C, H, W]
PIXELS = ["n", H, W, C]


def normed(*, of_rows: bool = False, epsilon: float = 1e-6, readers: int = 2) -> onnx.ModelProto:
    b = Builder("fusion_stages.0.local_attention.norm")
    pixels = b.transpose("x", *MAPS_TO_PIXELS)
    if of_rows:
        pixels = b.reshape(b.op("Relu", b.reshape(pixels, -1, C)), -1, H, W, C)
    made = b.norm(pixels, C, epsilon)
    outputs = {b.reshape(b.linear(b.reshape(made, -1, C), C, C), -1, H, W, C): PIXELS}
    if readers > 1:
        outputs[b.op("Mul", made, made)] = PIXELS
    return b.model({"x": SHAPE}, outputs)


@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 1e-3])
def test_it_computes_the_same(of_rows, epsilon):
    plain = normed(of_rows=of_rows, epsilon=epsilon)
    made, found = rewritten(plain, "norms")
    assert found.places == {"norms": 1}
    assert kinds(made)["LayerNormalization"] == 0
    assert_same(plain, made)


def test_what_only_products_read_is_left_alone():
    plain = normed(readers=1)
    made, found = rewritten(plain, "norms")
    assert found.places == {}
    assert kinds(made) == kinds(plain)


def test_norms_of_one_map_are_rewritten_whatever_reads_them():
    """Else they share their first half, and the compiler keeps the widened map in memory for the second."""
    b = Builder("global_steps.1")
    pixels = b.transpose("x", *MAPS_TO_PIXELS)
    rows = [b.linear(b.reshape(b.norm(pixels, C), -1, C), C, C) for _ in range(2)]
    plain = b.model({"x": SHAPE}, {b.reshape(each, -1, H, W, C): PIXELS for each in rows})
    made, found = rewritten(plain, "norms")
    assert found.places == {"norms": 2}
    assert kinds(made)["LayerNormalization"] == 0
    assert_same(plain, made)


@pytest.mark.parametrize("change", ["another axis", "no bias", "a computed scale", "of no map"])
def test_what_only_looks_like_one_is_left_alone(change):
    b = Builder()
    channels = H * W * C if change == "another axis" else C
    pixels = b.transpose("x", *(MAPS_TO_PIXELS if change != "of no map" else [0, 2, 1, 3]))
    scale, bias = b.normal(channels), b.normal(channels)
    if change == "another axis":
        scale, bias = scale.reshape(H, W, C), bias.reshape(H, W, C)
    given = [b.op("Relu", scale) if change == "a computed scale" else scale, *([bias] if change != "no bias" else [])]
    axis = 1 if change == "another axis" else -1
    if change == "of no map":
        given = [b.normal(W), b.normal(W)]
    shape = ["n", H, C, W] if change == "of no map" else PIXELS
    out = b.op("Relu", b.op("LayerNormalization", pixels, *given, axis=axis))
    plain = b.model({"x": SHAPE}, {out: shape})
    made, found = rewritten(plain, "norms")
    assert found.places == {}
    assert kinds(made)["LayerNormalization"] == 1
    assert_same(plain, made)


def test_all_of_it_is_float32_inside_kernels_and_its_scale_and_shift_are_weights():
    model = parse(normed())
    forms.rewrite(model, "tensorrt-rtx")
    wide = [node for node in model.graph if WIDE in node.metadata_props]
    assert {"ReduceMean", "Sqrt", "Reciprocal", "Sub", "Mul", "Add"} <= {node.op_type for node in wide}
    weights = [str(node.inputs[place].name) for node in model.graph for place in (forms.weight_inputs(node) or ())]
    assert [name.rsplit(".", 1)[-1] for name in weights] == ["1", "2"]
    assert all("layernormalization" in name for name in weights), "the norm's own initializers"


def test_pixels_far_from_zero_keep_their_digits_in_float16():
    """Mean 8, deviation 0.1: squares and differences of float16 would leave nothing of them."""
    plain = normed()
    given = [8 + 0.1 * array for array in images(plain, 2)]
    exact = run(plain, *given)[1]
    errors = []
    for passes in ((), ("norms",)):
        model = parse(plain)
        if passes:
            forms.rewrite(model, "tensorrt-rtx", only=passes)
        to_float16(model, find_islands(model.graph))
        (found,) = Session(emulate(model), outputs=["y1"]).run(given[0], ["y1"])
        errors.append(float(np.abs(found - exact).max() / np.abs(exact).max()))
    assert errors[0] > 0, "float16 is not float32"
    assert errors[1] < 1.5 * errors[0]


def test_twins_of_one_map_are_two():
    b = Builder()
    pixels = b.transpose("x", *MAPS_TO_PIXELS)
    made = [b.op("Tanh", b.norm(pixels, C)) for _ in range(2)]
    plain = b.model({"x": SHAPE}, {b.transpose(b.op("Mul", *made), *PIXELS_TO_MAPS): SHAPE})
    after, found = rewritten(plain, "norms")
    assert found.places == {"norms": 2}
    assert_same(plain, after)
