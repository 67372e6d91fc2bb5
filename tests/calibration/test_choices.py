"""Nodes that lead to a choice of values alone: found by structure, exact in float16 graphs, unquantized in INT8."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import qdq
from hemf_export.calibration.choices import CHOICE, choosing_nodes, feeds
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import find_islands, measured_islands, to_float16
from hemf_export.calibration.graphs import copy_of, image_shapes
from hemf_export.calibration.products import find_products
from hemf_export.calibration.qdq import Statistics
from hemf_export.calibration.ranges import record
from hemf_export.calibration.session import Session
from tests.calibration.classifiers import node, prepared

WINDOWS, PIXELS, CHANNELS = 6, 4, 32
# Exact in float16, and so are queries and keys; the scores are near 128 and differ by less than float16 tells.
X = (1 + np.random.default_rng(0).integers(-8, 9, (3, WINDOWS * PIXELS * CHANNELS)) / 1024).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return (np.random.default_rng([1, *shape]).standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)


def routed(choice: str = "TopK", *, turned: bool = True) -> ir.Model:
    """Windows whose keys' means choose among windows, of which the chosen are taken; then a classifier."""
    size = PIXELS * CHANNELS
    keys = [
        node("ReduceMean", "keys second", "key_means", keepdims=0), node("Reshape", "key_means means", "b"),
        node("Transpose", "b", "bt", perm=[0, 2, 1]), node("MatMul", "a bt", "scores"),
    ]  # fmt: skip
    if not turned:
        keys = [
            node("Reshape", "key four", "apart"), node("Transpose", "apart", "first", perm=[0, 3, 1, 2]),
            node("ReduceMean", "first last", "key_means", keepdims=0), node("MatMul", "a key_means", "scores"),
        ]  # fmt: skip
    if choice == "TopK":
        choose = onnx.helper.make_node("TopK", ["scores", "two"], ["best", "chosen"], name="chosen")
    else:
        choose = node("ArgMax", "scores", "chosen", axis=-1, keepdims=0)
    nodes = [
        node("Reshape", "x rows", "pixels"), node("MatMul", "pixels wq", "query"), node("MatMul", "pixels wk", "key"),
        node("Reshape", "query windows", "queries"), node("Reshape", "key windows", "keys"),
        node("ReduceMean", "queries second", "query_means", keepdims=0), node("Reshape", "query_means means", "a"),
        *keys, choose, node("Unsqueeze", "chosen last", "places"), node("Reshape", "keys table", "all_keys"),
        node("GatherND", "all_keys places", "taken", batch_dims=1),
        node("ReduceMean", f"taken {'two_axes' if choice == 'TopK' else 'second'}", "one", keepdims=0),
        node("Reshape", "queries flat", "own"), node("Concat", "one own", "both", axis=1),
        node("MatMul", "both head", "y"),
    ]  # fmt: skip
    weights = {
        "rows": np.array([-1, CHANNELS]), "windows": np.array([-1, PIXELS, CHANNELS]), "second": np.array([1]),
        "means": np.array([-1, WINDOWS, CHANNELS]), "two": np.array([2]), "last": np.array([-1]),
        "four": np.array([-1, WINDOWS, PIXELS, CHANNELS]), "table": np.array([-1, WINDOWS, size]),
        "two_axes": np.array([1, 2]), "flat": np.array([-1, WINDOWS * size]), "head": weight(size + WINDOWS * size, 4),
        "wq": 2 * np.eye(CHANNELS, dtype=np.float32)[::-1], "wk": np.eye(CHANNELS, dtype=np.float32),
    }  # fmt: skip
    return prepared(nodes, weights, ("n", WINDOWS * size))


def names(nodes) -> list[str]:
    return [each.name for each in nodes]


@pytest.mark.parametrize("choice", ["TopK", "ArgMax"])
def test_what_leads_to_a_choice_alone_is_found_without_what_others_read(choice):
    graph = routed(choice).graph
    expected = {"query_means", "key_means", "a", "b", "bt", "scores", "chosen"}
    assert set(names(choosing_nodes(graph))) == expected
    assert {name for name, reason in find_islands(graph).items() if reason == CHOICE} == expected


def test_a_choice_that_no_gather_follows_and_a_product_with_a_weight_stay_as_they_are():
    ends = prepared([node("MatMul", "x w", "a"), node("ArgMax", "a", "y", axis=1, keepdims=0)], {"w": weight(32, 8)})
    assert choosing_nodes(ends.graph) == []
    nodes = [
        node("MatMul", "x gate", "gates"), node("Sigmoid", "gates", "opened"),
        node("ArgMax", "opened", "expert", axis=1, keepdims=0), node("Gather", "experts expert", "own", axis=0),
        node("Mul", "x own", "mixed"), node("MatMul", "mixed head", "y"),
    ]  # fmt: skip
    gated = prepared(nodes, {"gate": weight(32, 8), "experts": weight(8, 32), "head": weight(32, 4)})
    assert names(choosing_nodes(gated.graph)) == ["opened", "expert"]


@pytest.mark.parametrize("turned", [True, False], ids=["a transposed factor", "a factor as it is"])
def test_the_float16_graph_chooses_as_the_float32_graph_does(turned):
    model = routed(turned=turned)
    exact = chosen_windows(model)
    plain, done = copy_of(model), copy_of(model)
    to_float16(plain, {})
    assert (chosen_windows(plain) != exact).any(), "float16 alone would choose otherwise"
    to_float16(done)
    assert (chosen_windows(done) == exact).all()
    onnx.checker.check_model(ir.to_proto(done), full_check=True)
    wide = {each.op_type for each in done.graph for value in each.inputs if value and value.dtype == ir.DataType.FLOAT}
    assert wide - {"Cast"} >= {"ReduceMean", "Mul", "ReduceSum", "TopK"}
    assert "MatMul" not in wide, "TensorRT-RTX has no float32 matrix product for Turing"


def test_islands_by_ranges_hold_the_same_choices():
    model = routed()
    islands = measured_islands(model.graph, record(model, [X]), image_shapes(model))
    assert {name for name, reason in islands.items() if reason == CHOICE} == set(names(choosing_nodes(model.graph)))


@pytest.mark.parametrize("for_cpu", [False, True])
def test_int8_leaves_the_product_that_chooses_alone(for_cpu):
    model = routed()
    products = {each.node: each for each in find_products(model.graph, image_shapes(model), for_cpu=for_cpu)}
    assert products["scores"].refusal == "says which values are taken: rounding would change the choice"
    if for_cpu:
        return
    assert products["query"].refusal is None
    chosen = [each for each in products.values() if each.refusal is None]
    done = copy_of(model)
    qdq.quantize(done, chosen, Statistics(record(model, [X]).histograms), "max")
    before = {name for each in choosing_nodes(done.graph) for name in names(filter(None, map(producer, each.inputs)))}
    assert before == {"queries", "keys", "query_means", "key_means", "a", "b", "bt", "scores"}, "no Q/DQ on the way"


def test_a_cpu_leaves_a_convolution_whose_output_a_choice_reads_in_float32():
    nodes = [
        node("Conv", "x k", "maps", pads=[1] * 4), node("Reshape", "maps rows", "flat"),
        node("Sigmoid", "flat", "gates"), node("ArgMax", "gates", "place", axis=1, keepdims=0),
        node("Gather", "table place", "taken", axis=0), node("ReduceMean", "maps space", "mean", keepdims=0),
        node("Concat", "mean taken", "both", axis=1), node("MatMul", "both head", "y"),
    ]  # fmt: skip
    weights = {
        "k": weight(16, 16, 3, 3), "rows": np.array([-1, 16 * 64]), "table": weight(16 * 64, 32),
        "space": np.array([2, 3]), "head": weight(48, 4),
    }  # fmt: skip
    model = prepared(nodes, weights, ("n", 16, 8, 8))
    choosing = set(choosing_nodes(model.graph))
    conv = next(each for each in model.graph if each.name == "maps")
    assert feeds(conv.outputs[0], choosing)
    refusals = [
        {each.node: each.refusal for each in find_products(model.graph, image_shapes(model), for_cpu=cpu)}["maps"]
        for cpu in (False, True)
    ]
    assert refusals == [None, "says which values are taken: rounding would change the choice"]


def producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def chosen_windows(model: ir.Model) -> np.ndarray:
    return np.sort(Session(emulate(model), outputs=["chosen"]).run(X, ["chosen"])[0])
