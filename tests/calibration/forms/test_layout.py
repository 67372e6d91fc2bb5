"""Patches by one turn, and changes of layout that cancel."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration.forms import layout
from hemf_export.calibration.graphs import infer, parse
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import assert_same, kinds, rewritten

C, H, W = 3, 8, 12
SHAPE = ["n", C, H, W]


def cancelled(plain: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, of whose changes of layout those that cancel are gone."""
    model = parse(plain)
    infer(model)
    layout.cancel(model)
    return ir.serde.serialize_model(model)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 4), (2, 4), (1, 3), (8, 12)])
@pytest.mark.parametrize("batch", ["n", 2])
def test_patches_are_gathered_by_one_turn(height, width, batch):
    b = Builder("local_steps.0")
    rows, columns = H // height, W // width
    pixels = b.reshape(b.transpose("x", *MAPS_TO_PIXELS), -1, rows, height, columns, width * C)
    patches = b.reshape(b.transpose(pixels, 0, 1, 3, 2, 4), -1, height * width * C)
    out = b.reshape(b.linear(patches, height * width * C, 4), -1, rows, columns, 4)
    plain = b.model({"x": [batch, C, H, W]}, {out: [batch, rows, columns, 4]})
    made, found = rewritten(plain, "patches")
    assert found.places == {"patches": 1}
    assert kinds(made)["Transpose"] == 1
    assert_same(plain, made)


def test_pieces_of_another_cut_are_left_alone():
    """Rows of pixels in pieces that are no rows of the map."""
    b = Builder()
    pieces = b.reshape(b.transpose("x", *MAPS_TO_PIXELS), -1, H // 4, 4 * W // 6, 2, 3 * C)
    turned = b.transpose(pieces, 0, 1, 3, 2, 4)
    plain = b.model({"x": SHAPE}, {b.reshape(turned, -1, H * W * C): ["n", H * W * C]})
    made, found = rewritten(plain, "patches")
    assert found.places == {}
    assert_same(plain, made)


def test_turns_and_views_behind_one_another_are_one_or_none():
    b = Builder()
    there_and_back = b.transpose(b.transpose("x", *MAPS_TO_PIXELS), *PIXELS_TO_MAPS)
    twice = b.transpose(b.transpose(there_and_back, 0, 3, 1, 2), 0, 3, 1, 2)
    viewed = b.reshape(b.reshape(b.reshape(twice, -1, C), -1, W, C), -1, H * W * C)
    plain = b.model({"x": SHAPE}, {viewed: ["n", H * W * C]})
    made = cancelled(plain)
    assert (kinds(made)["Transpose"], kinds(made)["Reshape"]) == (1, 1)
    assert_same(plain, made)


def test_a_view_that_keeps_the_size_of_its_inputs_first_axis_keeps_its_input():
    """0 in a Reshape's shape is the size that its input has there: of another input that is another size."""
    b = Builder()
    rows = b.op("Relu", b.reshape("x", -1, W))
    heads = b.reshape(b.reshape(rows, -1, 2, W), 0, W, 2)
    plain = b.model({"x": SHAPE}, {heads: ["rows", W, 2]})
    made = cancelled(plain)
    assert kinds(made)["Reshape"] == 3
    assert_same(plain, made)


def test_what_a_graph_gives_keeps_its_name_and_what_is_read_twice_its_readers():
    b = Builder()
    turned = b.transpose("x", *MAPS_TO_PIXELS)
    back = b.transpose(turned, *PIXELS_TO_MAPS)
    same = b.transpose("x", 0, 1, 2, 3)
    plain = b.model({"x": SHAPE}, {back: SHAPE, turned: ["n", H, W, C], b.op("Add", back, same): SHAPE, same: SHAPE})
    # Outputs that are given by a Transpose itself.
    for node in list(plain.graph.node):
        if node.op_type == "Identity":
            producer = next(other for other in plain.graph.node if other.output[0] == node.input[0])
            old = producer.output[0]
            producer.output[0] = node.output[0]
            plain.graph.node.remove(node)
            for other in plain.graph.node:
                other.input[:] = [node.output[0] if name == old else name for name in other.input]
    made, _ = rewritten(plain)
    assert_same(plain, made)
    made = cancelled(plain)
    assert [value.name for value in made.graph.output] == ["y0", "y1", "y2", "y3"]
    assert_same(plain, made)
