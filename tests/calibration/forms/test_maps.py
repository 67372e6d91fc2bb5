"""Products on rows between maps as 1×1 convolutions, and what is no row of a map."""

from __future__ import annotations

import numpy as np
import pytest

from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import assert_same, kinds, rewritten

C, H, W = 6, 4, 5
SHAPE = ["n", C, H, W]


def to_rows(b: Builder, maps: str, channels: int = C) -> str:
    return b.reshape(b.transpose(maps, *MAPS_TO_PIXELS), -1, channels)


def to_maps(b: Builder, rows: str, channels: int = C, height: int = H, width: int = W) -> str:
    return b.transpose(b.reshape(rows, -1, height, width, channels), *PIXELS_TO_MAPS)


def test_an_mlp_with_its_residual_stays_on_maps():
    b = Builder()
    rows = to_rows(b, "x")
    hidden = b.op("Gelu", b.linear(rows, C, 24))
    out = b.op("Add", rows, b.op("Mul", b.linear(hidden, 24, C), b.normal(C)))
    plain = b.model({"x": SHAPE}, {to_maps(b, out): SHAPE})
    made, found = rewritten(plain, "maps")
    assert found.places == {"maps": 2}
    assert (kinds(made)["Conv"], kinds(made)["Transpose"], kinds(made)["Reshape"]) == (2, 0, 0)
    assert_same(plain, made)


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("left", [True, False])
def test_constants_on_either_side(kind, left):
    b = Builder()
    rows = b.linear(to_rows(b, "x"), C, C)
    for array in (np.abs(b.normal(C)) + 1, np.array(1.5, np.float32), np.array([2.5], np.float32)):
        rows = b.op(kind, *((array, rows) if left else (rows, array)))
        rows = b.op("Add", b.op("Tanh", rows), np.array(2.0, np.float32))
    plain = b.model({"x": SHAPE}, {to_maps(b, rows): SHAPE})
    made, found = rewritten(plain, "maps")
    assert found.places == {"maps": 1}
    assert_same(plain, made)


def test_concatenated_rows_and_a_norm_and_whoever_else_reads_them():
    b = Builder()
    rows = b.op("Relu", to_rows(b, "x"))
    other = b.linear(b.op("Sigmoid", to_rows(b, "z")), C, 2)
    joined = b.op("Concat", rows, other, axis=1)
    normed = b.norm(joined, C + 2)
    maps, rest = to_maps(b, b.linear(normed, C + 2, C)), b.op("Neg", joined)
    plain = b.model({"x": SHAPE, "z": SHAPE}, {maps: SHAPE, rest: ["rows", C + 2], normed: ["rows", C + 2]})
    made, found = rewritten(plain, "maps")
    assert found.places == {"maps": 2}
    assert kinds(made)["Gemm"] == 0
    assert_same(plain, made)


def test_a_product_that_a_norm_takes_stays_on_rows():
    """Bias, residual and norm are one kernel there."""
    b = Builder()
    rows = to_rows(b, "x")
    out = b.norm(b.op("Add", rows, b.linear(b.op("Relu", rows), C, C)), C)
    plain = b.model({"x": SHAPE}, {to_maps(b, out): SHAPE})
    made, _ = rewritten(plain, "maps")
    assert kinds(made)["Gemm"] == 1
    assert_same(plain, made)


def test_rows_that_are_a_graphs_own_output():
    b = Builder()
    rows = b.op("Gelu", b.linear(to_rows(b, "x"), C, C))
    plain = b.model({"x": SHAPE}, {to_maps(b, rows): SHAPE, rows: ["rows", C]})
    for node in plain.graph.node:  # the output itself, without an Identity in between
        if node.name == "output_1":
            plain.graph.node.remove(node)
            break
    producer = next(node for node in plain.graph.node if node.output[0] == rows)
    producer.output[0] = "y1"
    for node in plain.graph.node:
        node.input[:] = ["y1" if name == rows else name for name in node.input]
    made, found = rewritten(plain, "maps")
    assert found.places == {"maps": 1}
    assert_same(plain, made)


def merged_pixels(b: Builder) -> tuple[str, int, int, int]:
    """Two pixels to a row: (N·H·W / 2, 2C)."""
    rows = b.reshape(b.transpose("x", *MAPS_TO_PIXELS), -1, 2 * C)
    return b.linear(rows, 2 * C, C), C, H // 2, W


def turned_image(b: Builder) -> tuple[str, int, int, int]:
    """Rows of an image that is read as W high and H wide."""
    return b.op("Relu", b.linear(to_rows(b, "x"), C, C)), C, W, H


def split_channels(b: Builder) -> tuple[str, int, int, int]:
    """Rows of whose channels some become columns."""
    return b.linear(to_rows(b, "x"), C, C), C // 2, H, 2 * W


def a_gate_of_the_image(b: Builder) -> tuple[str, int, int, int]:
    """One number a channel, times every pixel."""
    gate = b.op("ReduceMean", "x", np.array([0, 2, 3], np.int64), keepdims=1)
    return b.op("Mul", b.linear(to_rows(b, "x"), C, C), b.reshape(b.op("Sigmoid", gate), 1, C)), C, H, W


def a_table(b: Builder) -> tuple[str, int, int, int]:
    """Another number for each pixel of the image: (H·W, C) has no channels of its own."""
    pixels = b.reshape(b.linear(to_rows(b, "x"), C, C), -1, H, W, C)
    return b.reshape(b.op("Add", pixels, b.normal(H, W, C)), -1, C), C, H, W


def scaled(b: Builder) -> tuple[str, int, int, int]:
    return b.linear(to_rows(b, "x"), C, C, alpha=0.5), C, H, W


def not_transposed(b: Builder) -> tuple[str, int, int, int]:
    return b.op("Gemm", to_rows(b, "x"), b.normal(C, C), b.normal(C)), C, H, W


def a_bias_for_all(b: Builder) -> tuple[str, int, int, int]:
    return b.op("Gemm", to_rows(b, "x"), b.normal(C, C), b.normal(1), transB=1), C, H, W


def a_computed_weight(b: Builder) -> tuple[str, int, int, int]:
    return b.op("Gemm", to_rows(b, "x"), b.op("Relu", b.normal(C, C)), b.normal(C), transB=1), C, H, W


@pytest.mark.parametrize(
    "write",
    [merged_pixels, turned_image, split_channels, scaled, not_transposed, a_bias_for_all, a_computed_weight, a_table,
     a_gate_of_the_image],
)  # fmt: skip
def test_what_only_looks_like_a_product_on_maps_is_left_alone(write):
    b = Builder()
    rows, channels, height, width = write(b)
    plain = b.model({"x": SHAPE}, {to_maps(b, rows, channels, height, width): ["n", channels, height, width]})
    made, found = rewritten(plain, "maps")
    assert found.places == {}
    assert kinds(made)["Conv"] == 0
    assert_same(plain, made)


def test_a_gate_of_each_image_is_broadcast_and_no_map():
    b = Builder()
    pixels = b.op("Relu", b.transpose("x", *MAPS_TO_PIXELS))
    gate = b.op("ReduceMean", pixels, np.array([1, 2], np.int64), keepdims=1)
    product = b.op("Mul", pixels, b.op("Sigmoid", gate))
    rows = b.linear(b.reshape(product, -1, C), C, C)
    plain = b.model({"x": SHAPE}, {to_maps(b, rows): SHAPE})
    made, _ = rewritten(plain, "maps")
    assert_same(plain, made)
    assert_same(plain, rewritten(plain)[0])


def test_products_that_share_their_rows_stay_one_for_the_compiler():
    b = Builder()
    rows = b.op("Relu", to_rows(b, "x"))
    out = b.op("Mul", b.linear(rows, C, C), b.op("Sigmoid", b.linear(rows, C, C)))
    plain = b.model({"x": SHAPE}, {to_maps(b, out): SHAPE})
    made, found = rewritten(plain, "maps")
    assert found.places == {}
    assert kinds(made)["Gemm"] == 2
    assert_same(plain, made)
