"""Nodes compared on exact inputs: an error shows where it is made, and nowhere behind it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.node_errors import NodeError, measure
from tests.calibration.classifiers import node, normal, prepared
from tests.conftest import Recorder


@pytest.fixture
def exact() -> ir.Model:
    """Two products with a nonlinearity between, a row's mean that is nearly zero, and what goes on from it."""
    nodes = [
        node("MatMul", "x first", "hidden"),
        node("Gelu", "hidden", "bent"),
        node("LayerNormalization", "bent ones", "normed"),
        node("ReduceMean", "normed axis", "nothing"),
        node("MatMul", "normed second", "out"),
        node("Add", "out nothing", "y"),
    ]
    weights = {
        "first": normal(32, 16), "second": normal(16, 4, seed=1), "ones": np.ones(16, np.float32),
        "axis": np.array([-1], np.int64),
    }  # fmt: skip
    return prepared(nodes, weights)


BATCHES = [normal(3, 32, seed=5), normal(2, 32, seed=6)]


def by_name(found: list[NodeError]) -> dict[str, NodeError]:
    return {error.node: error for error in found}


def damaged(exact: ir.Model, weight: str, change) -> ir.Model:
    made = copy_of(exact)
    value = made.graph.initializers[weight]
    value.const_value = ir.Tensor(change(value.const_value.numpy()).astype(np.float32), name=weight)
    return made


def test_a_copy_differs_in_nothing(exact):
    found = measure(exact, copy_of(exact), BATCHES)
    assert [error.node for error in found] == ["hidden", "bent", "normed", "nothing", "out", "y"]
    assert all((error.error, error.own) == (0, 0) for error in found)


def test_a_damaged_weight_is_its_own_products_error_alone(exact):
    progress = Recorder()
    found = by_name(measure(exact, damaged(exact, "first", lambda w: -w), BATCHES, progress))
    assert found["hidden"].own == pytest.approx(2, rel=1e-5), "the opposite of the value"
    assert found["hidden"].error == pytest.approx(2, rel=1e-5)
    assert found["out"].error > 0.05, "carried on"
    assert all(found[name].own < 1e-6 for name in ("bent", "normed", "out", "y"))
    assert progress.moves == [(1,), (1,)]


def test_the_error_is_that_of_all_images(exact):
    """The norm over both batches, worked out from the values."""
    noise = normal(32, 16, scale=0.1, seed=9)
    found = by_name(measure(exact, damaged(exact, "first", lambda w: w + noise), BATCHES))
    rows, weight = np.concatenate(BATCHES).astype(np.float64), exact.graph.initializers["first"].const_value.numpy()
    expected = np.linalg.norm(rows @ noise) / np.linalg.norm(rows @ weight)
    assert found["hidden"].own == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_infinitely_far_off(exact, bad):
    found = by_name(measure(exact, damaged(exact, "second", lambda w: w * bad), BATCHES))
    assert (found["out"].own, found["out"].error, found["y"].error) == (math.inf, math.inf, math.inf)
    assert found["y"].own == 0
    assert found["normed"].error == 0


def test_float16_rounds_every_node_a_little_and_what_is_nearly_zero_is_no_error(exact):
    half = copy_of(exact)
    to_float16(half, {})
    found = by_name(measure(exact, emulate(half), BATCHES))
    assert 1e-5 < found["hidden"].own < 1e-3
    assert 1e-5 < found["out"].own < 1e-3
    assert found["nothing"].own < 0.01, "a mean of zero is all rounding, in float32 as well"
