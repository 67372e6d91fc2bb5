"""Which products of a graph int8 is used for, how much work each is, and which block it belongs to."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration.blocks import GENERIC_GROUPS, OTHER, block_of, blocks
from hemf_export.calibration.graphs import image_shapes, prepare
from hemf_export.calibration.products import Product, find_products
from hemf_export.networks.hemf.count import count_parts
from tests.calibration.classifiers import node, prepared
from tests.conftest import TINY


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * 0.2).astype(np.float32)


HEAD = node("MatMul", "a head", "y")


def found(model: ir.Model, **options) -> dict[str, Product]:
    return {each.node: each for each in find_products(model.graph, image_shapes(model), **options)}


def pooled(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A feature map `m` behind the nodes becomes `a`, and then the logits."""
    return [*nodes, node("GlobalAveragePool", "m", "pool"), node("Flatten", "pool", "a"), HEAD]


@pytest.mark.parametrize(
    ("attributes", "shape", "out_pixels"),
    [({"pads": [1] * 4}, (48, 32, 3, 3), 16 * 12), ({"strides": [2, 2], "pads": [1] * 4}, (48, 32, 3, 3), 8 * 6),
     ({}, (48, 32, 1, 1), 16 * 12)],
)  # fmt: skip
def test_work_of_a_convolution_for_one_image_of_a_dynamic_batch(attributes, shape, out_pixels):
    model = prepared(
        pooled(node("Conv", "x w", "m", **attributes)), {"w": weight(*shape), "head": weight(48, 4)}, ("n", 32, 16, 12)
    )
    conv = found(model)["m"]
    assert (conv.refusal, conv.weight, conv.axis, conv.activations) == (None, 1, 0, ((0, "x"),))
    assert conv.inner == np.prod(shape[1:])
    assert conv.multiply_adds == out_pixels * np.prod(shape)
    assert model.graph.inputs[0].shape[0] != 1, "finding shapes leaves the batch dynamic"


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_work_and_output_axis_of_a_gemm(transposed, axis):
    shape = (40, 32) if transposed else (32, 40)
    model = prepared([node("Gemm", "x w", "a", transB=transposed), HEAD], {"w": weight(*shape), "head": weight(40, 4)})
    gemm = found(model)["a"]
    assert (gemm.refusal, gemm.weight, gemm.axis, gemm.inner) == (None, 1, axis, 32)
    assert gemm.multiply_adds == 32 * 40


@pytest.mark.parametrize(
    ("inputs", "shape", "side", "axis", "inner"),
    [("x w", (20, 40), 1, 1, 20), ("w x", (40, 32), 0, 0, 32), ("w x", (1, 40, 32), 0, 1, 32)],
)
def test_work_and_output_axis_of_a_matmul_by_the_side_of_its_weight(inputs, shape, side, axis, inner):
    nodes = [node("MatMul", inputs, "m"), node("ReduceMean", "m one", "r", keepdims=0), node("MatMul", "r head", "y")]
    rows = 40 if side else 20
    model = prepared(nodes, {"w": weight(*shape), "head": weight(rows, 4), "one": np.array([1])},
                     ("n", 32, 20), None)  # fmt: skip
    product = found(model)["m"]
    assert (product.refusal, product.weight, product.axis, product.inner) == (None, side, axis, inner)
    assert product.activations == ((1 - side, "x"),)
    assert product.multiply_adds == 40 * 32 * 20


def test_work_of_two_activations():
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "m"),
             node("ReduceMean", "m one", "a", keepdims=0), node("MatMul", "a head", "y")]  # fmt: skip
    model = prepared(nodes, {"head": weight(24, 4), "one": np.array([1])}, ("n", 24, 32))
    product = found(model)["m"]
    assert (product.refusal, product.weight, product.activations) == (None, None, ((0, "x"), (1, "t")))
    assert (product.inner, product.multiply_adds) == (32, 24 * 24 * 32)


def test_the_classifier_is_the_last_product_whatever_moves_and_sums_follow_it():
    nodes = [
        node("Gemm", "x w", "a"),
        node("MatMul", "a head", "h"),
        node("Add", "h b", "s"),
        node("Flatten", "s", "y"),
    ]
    model = prepared(nodes, {"w": weight(32, 32), "head": weight(32, 4), "b": weight(4)})
    assert {name: each.refusal for name, each in found(model).items()} == {"a": None, "h": "the classifier"}


@pytest.mark.parametrize("group", [2, 32])
def test_grouped_convolutions_are_refused_but_gain_on_a_cpu(group):
    weights = {"w": weight(32, 32 // group, 3, 3), "head": weight(32, 4)}
    model = prepared(pooled(node("Conv", "x w", "m", group=group)), weights, ("n", 32, 9, 9))
    assert found(model)["m"].refusal == "depthwise or grouped convolution"
    assert found(model, for_cpu=True)["m"].refusal is None
    assert found(model)["m"].multiply_adds == 7 * 7 * 32 * 9 * 32 // group


@pytest.mark.parametrize(("inner", "refusal"), [(15, "inner dimension under 16"), (16, None)])
def test_short_sums_are_refused(inner, refusal):
    model = prepared([node("Gemm", "x w", "a"), HEAD], {"w": weight(inner, 32), "head": weight(32, 4)}, ("n", inner))
    assert found(model)["a"].refusal == refusal
    assert found(model, for_cpu=True)["a"].refusal is None


def rotation(size: int) -> np.ndarray:
    """(a, b) to (−b, a) for each pair."""
    made = np.zeros((size, size), np.float32)
    for pair in range(0, size, 2):
        made[pair + 1, pair], made[pair, pair + 1] = -1, 1
    return made


EYE = np.eye(32, dtype=np.float32)


@pytest.mark.parametrize("matrix", [rotation(32), EYE, -EYE[::-1]])
def test_signed_permutations_are_refused(matrix):
    model = prepared([node("MatMul", "x w", "a"), HEAD], {"w": matrix, "head": weight(32, 4)})
    assert found(model)["a"].refusal == "a signed permutation"
    assert found(model)["a"].multiply_adds == 32 * 32


@pytest.mark.parametrize("matrix", [EYE * 2, EYE[np.arange(32) // 2], EYE + np.eye(32, k=1, dtype=np.float32)])
def test_what_is_nearly_a_signed_permutation_is_not(matrix):
    model = prepared([node("MatMul", "x w", "a"), HEAD], {"w": matrix, "head": weight(32, 4)})
    assert found(model)["a"].refusal is None


@pytest.mark.parametrize(
    ("islands", "refusal"),
    [((), None), (("exp",), "a factor comes from a float32 island"), (("m",), "stays in float32"), (("w",), None)],
)
def test_what_must_stay_in_float32_is_refused(islands, refusal):
    nodes = [node("Exp", "x", "exp"), node("Transpose", "exp", "t", perm=[0, 2, 1]),
             node("MatMul", "x t", "m"), node("ReduceMean", "m one", "a", keepdims=0), HEAD]  # fmt: skip
    model = prepared(nodes, {"head": weight(24, 4), "one": np.array([1])}, ("n", 24, 32))
    assert found(model, islands=islands)["m"].refusal == refusal


def test_a_factor_with_a_weight_may_come_from_an_island():
    model = prepared([node("Exp", "x", "s"), node("MatMul", "s w", "a"), HEAD],
                     {"w": weight(32, 32), "head": weight(32, 4)})  # fmt: skip
    assert found(model, islands=("s",))["a"].refusal is None


@pytest.mark.parametrize("between", [(), ("Mul scores scale",), ("Mul scores scale", "Add scaled mask")])
def test_both_products_of_an_attention_are_left_alone(between):
    nodes, value = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "scores")], "scores"
    for step, made in zip(between, ("scaled", "masked"), strict=False):
        operator, inputs = step.split(maxsplit=1)
        nodes.append(node(operator, inputs, made))
        value = made
    nodes += [node("Softmax", value, "weights"), node("MatMul", "weights x", "mixed"),
              node("MatMul", "mixed w", "m"), node("ReduceMean", "m one", "a", keepdims=0), HEAD]  # fmt: skip
    weights = {"w": weight(32, 32), "head": weight(32, 4), "one": np.array([1]), "scale": np.array(0.2, np.float32),
               "mask": weight(24, 24)}  # fmt: skip
    products = found(prepared(nodes, weights, ("n", 24, 32)))
    refusals = {name: product.refusal for name, product in products.items()}
    attention = "an attention, which is one kernel in float16"
    assert refusals == {"scores": attention, "mixed": attention, "m": None, "y": "the classifier"}


@pytest.mark.parametrize("for_cpu", [False, True])
def test_a_convolution_whose_output_has_no_known_size_is_refused(for_cpu):
    model = prepared(pooled(node("Conv", "x w", "m")), {"w": weight(32, 32, 3, 3), "head": weight(32, 4)},
                     ("n", 32, "height", "width"))  # fmt: skip
    products = found(model, for_cpu=for_cpu)
    assert (products["m"].refusal, products["m"].counted) == ("unknown shape", False)
    assert products["m"].multiply_adds == products["y"].multiply_adds > 0, "as much work as the largest that is known"


def test_a_weight_that_the_graph_rearranges_is_a_weight():
    """What the graph makes of constants alone is a constant."""
    model = prepared([node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "a"), HEAD],
                     {"w": weight(40, 32), "head": weight(40, 4)})  # fmt: skip
    assert (found(model)["a"].refusal, found(model)["a"].weight) == (None, 1)


def test_a_product_with_a_vector_is_refused():
    nodes = [node("MatMul", "x v", "m"), node("Relu", "m", "a"), node("MatMul", "a head", "y")]
    model = prepared(nodes, {"v": weight(32), "head": weight(24, 4)}, ("n", 24, 32))
    assert found(model)["m"].refusal == "a vector has no channels"


def test_matrix_products_other_than_gemms_are_refused_for_a_cpu():
    model = prepared([node("MatMul", "x w", "m"), node("Gemm", "m w", "a"), HEAD],
                     {"w": weight(32, 32), "head": weight(32, 4)})  # fmt: skip
    refusals = {name: each.refusal for name, each in found(model, for_cpu=True).items()}
    assert refusals == {"m": "a matrix product that is no plain Gemm", "a": None, "y": "the classifier"}


@pytest.mark.parametrize(
    ("name", "block"),
    [("local_steps.0.norm/x", "local step 1"), ("global_stages.3.blocks.0/MatMul_4", "EGF 4"),
     ("fusion_stages.1.mlp/gelu_4", "HEF 2 SIRMLP"), ("fusion_stages.2.local_attention.k/y", "HEF 3 MixedAttention"),
     ("fusion_stages.0.project/z", "HEF 1 projections"), ("head/MatMul", "head"), ("Conv_12", None)],
)  # fmt: skip
def test_a_node_of_ours_tells_its_block(name, block):
    assert block_of(name) == block


def chain(count: int) -> ir.Model:
    nodes = [
        part
        for index in range(count)
        for part in (
            node("Relu", f"v{index}" if index else "x", f"r{index}"),
            node("Gemm", f"r{index} w", f"v{index + 1}"),
        )
    ]
    return prepared([*nodes, node("MatMul", f"v{count} head", "y")], {"w": weight(32, 32), "head": weight(32, 4)})


@pytest.mark.parametrize("count", [1, 5, 11, 30, 100])
def test_other_graphs_are_cut_into_runs_with_about_as_many_products(count):
    model = chain(count)
    where = blocks(model.graph)
    assert list(where) == [each.name for each in model.graph]
    groups = list(where.values())
    for label in set(groups):
        first, last = (int(number) for number in label.split()[1].split("-"))
        assert groups[first - 1 : last] == [label] * (last - first + 1)
    products = [sum(each.block == label for each in found(model).values()) for label in dict.fromkeys(groups)]
    assert len(products) == min(GENERIC_GROUPS, count + 1)
    assert max(products) - min(products) <= 1


@pytest.fixture(scope="module")
def tiny(whole_network) -> ir.Model:
    return prepare(onnx.load(whole_network.onnx))


def test_a_networks_products_are_those_that_its_equations_have(tiny):
    products = find_products(tiny.graph, image_shapes(tiny))
    rotations = sum(each.multiply_adds for each in products if each.refusal == "a signed permutation")
    total = sum(each.multiply_adds for each in products)
    assert rotations > 0
    assert "unknown shape" not in {each.refusal for each in products}
    assert total - rotations == pytest.approx(sum(part.products for part in count_parts(TINY).values()), rel=0.02)


def test_every_node_of_ours_belongs_to_a_block_of_the_paper(tiny):
    where = blocks(tiny.graph)
    products = {each.block for each in find_products(tiny.graph, image_shapes(tiny))}
    assert products >= {"ELF 1", "EGF 1", "ELF 4", "EGF 4", "HEF 1 SIRMLP", "HEF 4 MixedAttention", "head"}
    assert OTHER not in products
    assert not [label for label in where.values() if label.startswith("nodes ")]


@pytest.mark.parametrize("for_cpu", [False, True])
def test_a_gemm_of_a_transposed_activation_is_left_alone(for_cpu):
    model = prepared(
        [node("Gemm", "x w", "a", transA=1), HEAD], {"w": weight(32, 40), "head": weight(40, 4)}, (32, 8), (8, 4)
    )
    assert "transposed" in str(found(model)["a"].refusal)
    assert found(model, for_cpu=for_cpu)["a"].refusal is not None
