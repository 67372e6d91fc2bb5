"""What static inference leaves open is read off a run: shape arithmetic, types, and sizes behind unknown operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration import graph_types, int8
from hemf_export.calibration.budget import by_work
from hemf_export.calibration.fp16 import FLOAT32_ALONE, to_float16
from hemf_export.calibration.graphs import image_shapes, prepare
from hemf_export.calibration.products import find_products
from hemf_export.calibration.session import Session
from hemf_export.files.errors import BadInputError
from tests.calibration.test_opsets import classifier, integers, node, values

NOISE = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)


def with_contrib(kind: str) -> onnx.ModelProto:
    """A file with an operator of ONNX Runtime's own between its convolutions, as its optimizer writes them."""
    file = classifier(17, [node(kind, "c", "m")], {})
    next(each for each in file.graph.node if each.op_type == kind).domain = "com.microsoft"
    file.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return file


def same_padding() -> onnx.ModelProto:
    """Padding as TensorFlow's SAME is written by exporters: computed from the shape of what is padded."""
    nodes = [
        node("Shape", "c", "shape"), node("Gather", "shape places", "sides"), node("Add", "sides one", "more"),
        node("Mod", "more two", "odd"), node("Concat", "four odd two_zeros odd", "pads", axis=0),
        node("Pad", "c pads", "m"),
    ]  # fmt: skip
    constants = {
        "places": integers(2, 3), "one": integers(1), "two": integers(2), "four": integers(0, 0),
        "two_zeros": integers(0, 0),
    }  # fmt: skip
    return classifier(13, nodes, constants)


@pytest.mark.parametrize("file", [with_contrib("QuickGelu"), with_contrib("Gelu"), same_padding()], ids=str)
def test_every_product_has_its_work(file):
    model = prepare(file)
    products = find_products(model.graph, image_shapes(model))
    assert [product.operator for product in products] == ["Conv", "Conv", "Gemm"]
    assert all(product.counted for product in products)
    assert int8.share_of(products, products[:1]) < 0.7
    session = Session(ir.from_proto(file))
    assert np.abs(Session(model).logits(NOISE) - session.logits(NOISE)).max() < 1e-5


def test_padding_that_the_graph_computes_is_a_constant():
    model = prepare(same_padding())
    assert [each.op_type for each in model.graph] == [
        "Conv",
        "Pad",
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]


def test_what_depends_on_the_batch_stays_in_the_graph():
    nodes = [node("Shape", "c", "shape"), node("Reshape", "c rows", "r"), node("Reshape", "r shape", "m")]
    model = prepare(classifier(13, nodes, {"rows": integers(0, -1)}))
    assert "Shape" in [each.op_type for each in model.graph]
    for images in (1, 4):
        assert Session(model).logits(NOISE[:images]).shape == (images, 4)


@pytest.mark.parametrize("kind", ["QuickGelu", "Gelu"])
def test_operators_that_are_not_of_onnx_stay_in_float32_and_the_file_loads(kind, tmp_path):
    file = with_contrib(kind)
    model = prepare(file)
    conversion = to_float16(model, {})
    assert list(conversion.islands.values()) == [FLOAT32_ALONE]
    ir.save(model, tmp_path / "half.onnx")
    assert graph_types.count_types(ir.load(tmp_path / "half.onnx"))["products"] == {"float16": 3}
    exact = Session(ir.from_proto(file)).logits(NOISE)
    assert np.abs(Session(tmp_path / "half.onnx").logits(NOISE) - exact).max() < 0.01


def test_other_operators_that_multiply_are_work_too():
    """A share of convolutions alone would be 100 %, with the transposed one left out."""
    nodes = [node("ConvTranspose", "c wide", "m", strides=[2, 2])]
    model = prepare(classifier(13, nodes, {"wide": values(8, 8, 2, 2)}))
    products = find_products(model.graph, image_shapes(model))
    transposed = next(product for product in products if product.operator == "ConvTranspose")
    assert transposed.multiply_adds == 8 * 16 * 16 * 8 * 2 * 2
    assert str(transposed.refusal).startswith("ConvTranspose: ")
    assert int8.share_of(products, [product for product in products if product.refusal is None]) < 0.95


def test_products_that_cannot_be_counted_count_as_the_largest_and_are_named():
    nodes = [node("Einsum", "c mix", "m", equation="nchw,cd->ndhw")]
    model = prepare(classifier(13, nodes, {"mix": values(8, 8)}))
    products = find_products(model.graph, image_shapes(model))
    einsum = next(product for product in products if product.operator == "Einsum")
    assert (einsum.counted, einsum.multiply_adds) == (False, max(product.multiply_adds for product in products))
    chosen = tuple(product for product in products if product.refusal is None)
    plan = int8.Plan(tuple(products), chosen, "max", {}, None, (), (), None, by_work(products))  # type: ignore[arg-type]
    assert "m can't be counted" in plan.notes[0]
    assert plan.to_dict()["uncounted_products"] == ["m"]
    assert plan.share < 0.7


def test_a_share_is_one_only_where_all_is_chosen():
    model = prepare(classifier(13, [node("Relu", "c", "m")], {}))
    products = find_products(model.graph, image_shapes(model))
    most = [product for product in products if product.operator == "Conv"]
    assert int8.share_of(products, most) == 0.999, "the classifier is 4e-4 of the work: never rounded up to 100 %"
    assert int8.share_of(products, products) == 1


def test_constants_that_the_graph_makes_large_stay_small_in_the_file():
    nodes = [node("Expand", "one size", "large"), node("ReduceMean", "large", "mean"), node("Add", "c mean", "m")]
    file = classifier(13, nodes, {"one": values(1), "size": integers(2048, 2048)})
    assert sum(value.const_value.nbytes for value in prepare(file).graph.initializers.values()) < 1 << 20


def test_a_graph_that_fails_when_it_runs_is_the_users_and_names_its_node(tmp_path):
    file = classifier(13, [node("Reshape", "c size", "m")], {"size": integers(1, 8, 16, 16)})
    onnx.save(file, tmp_path / "fixed.onnx")
    session = Session(tmp_path / "fixed.onnx")
    session.logits(NOISE[:1])
    with pytest.raises(BadInputError, match=r"fixed\.onnx on a batch of 4: .*Name:'m'") as raised:
        session.logits(NOISE)
    assert "takes any batch" in str(raised.value.hint)
    assert "onnxruntime_src" not in raised.value.message


def test_a_tensor_of_another_type_is_the_users_too(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], [numpy_helper.from_array(values(1), "unused")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), tmp_path / "m.onnx")
    with pytest.raises(BadInputError, match="Unexpected input data type"):
        Session(tmp_path / "m.onnx").run(np.zeros(1, np.int64))
