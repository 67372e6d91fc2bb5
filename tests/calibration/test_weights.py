"""Weights rounded for what they meet: the product's error beside that of rounding to nearest, and the moments."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.calibration import weights
from hemf_export.calibration.graphs import image_shapes
from hemf_export.calibration.products import find_products
from hemf_export.calibration.session import Session
from hemf_export.calibration.weights import Int8Weight, View, half, record_moments, rounded, view_of
from tests.calibration.classifiers import node, normal, prepared
from tests.conftest import RecordedTask, Recorder


def moved_together(rows: int, inner: int) -> np.ndarray:
    """Inputs as pixels are: a common brightness, a few patterns, and little noise."""
    generator = np.random.default_rng(inner)
    patterns = generator.standard_normal((3, inner))
    return 2 + generator.standard_normal((rows, 3)) @ patterns + 0.1 * generator.standard_normal((rows, inner))


def exact(weight: Int8Weight, axis: int) -> np.ndarray:
    shape = [-1 if place == axis else 1 for place in range(weight.values.ndim)]
    return weight.values.astype(np.float64) * weight.scales.reshape(shape)


def error(x: np.ndarray, weight: np.ndarray, found: Int8Weight) -> float:
    return float(np.square(x @ (exact(found, 1) - weight)).mean())


@pytest.mark.parametrize("inner", [16, 63, 64, 65, 200])
def test_the_product_changes_far_less_than_with_nearest_rounding_on_inputs_not_seen(inner):
    x = moved_together(4000, inner)
    seen, others = x[:2000], x[2000:]
    weight = normal(inner, 24)
    found = rounded(weight, 1, seen.T @ seen / len(seen))
    assert error(others, weight, found) < (0.3 if inner < 32 else 0.1) * error(others, weight, rounded(weight, 1))
    np.testing.assert_array_equal(found.scales, rounded(weight, 1).scales)
    assert np.abs(found.values).max() == 127


def test_in_float16_the_product_changes_less_as_well():
    x = moved_together(4000, 48)
    seen, others = x[:2000], x[2000:]
    weight = normal(48, 24)
    found = half(weight, 1, seen.T @ seen / len(seen))
    assert found.dtype == np.float16
    plain = weight.astype(np.float16)
    ours, theirs = (np.square(others @ (each.astype(np.float64) - weight)).mean() for each in (found, plain))
    assert ours < 0.1 * theirs
    assert np.abs(found.astype(np.float32) - weight).max() < 4 * np.abs(plain.astype(np.float32) - weight).max()
    turned = half(weight.T.copy(), 0, seen.T @ seen / len(seen))
    assert np.array_equal(turned.T, found)


def test_independent_inputs_gain_nothing_and_lose_nothing():
    weight = normal(32, 8)
    assert np.array_equal(rounded(weight, 1, np.eye(32)).values, rounded(weight, 1).values)


@pytest.mark.parametrize("moment", [np.zeros((32, 32)), np.ones((32, 32)), np.diag([1.0] + [0.0] * 31)])
def test_inputs_that_tell_little_are_no_trouble(moment):
    weight = normal(32, 8)
    found = rounded(weight, 1, moment)
    assert np.abs(exact(found, 1) - weight).max() < 3 * found.scales.max()


def test_a_channel_of_zeros_stays_zero():
    weight = normal(32, 8)
    weight[:, 3] = 0
    x = moved_together(500, 32)
    assert not rounded(weight, 1, x.T @ x).values[:, 3].any()


def test_the_axis_only_turns_the_weight():
    x, weight = moved_together(500, 48), normal(48, 12)
    first, turned = rounded(weight, 1, x.T @ x), rounded(weight.T.copy(), 0, x.T @ x)
    assert np.array_equal(first.values, turned.values.T)


def test_a_convolution_is_rounded_as_its_patches_are():
    kernel = normal(12, 3, 4, 4)
    x = moved_together(500, 48)
    found = rounded(kernel, 0, x.T @ x)
    flat = rounded(kernel.reshape(12, 48), 0, x.T @ x)
    assert np.array_equal(found.values.reshape(12, 48), flat.values)


X = np.random.default_rng(0).standard_normal((3, 4, 9, 11)).astype(np.float32)
CONVOLUTIONS = [
    {"pads": [1, 1, 1, 1]}, {"strides": [2, 3]}, {"dilations": [2, 2], "pads": [2, 0, 1, 3]},
    {"strides": [3, 2], "pads": [0, 1, 2, 1]},
]  # fmt: skip


@pytest.mark.parametrize("attributes", CONVOLUTIONS, ids=str)
def test_patches_are_what_a_convolution_sums_over(attributes):
    """All patches times the kernel are the convolution's output: their moments are tried by it."""
    kernel = normal(8, 4, 3, 3)
    model = prepared([node("Conv", "x k", "y", **attributes)], {"k": kernel}, ("n", 4, 9, 11), ("n", 8, "h", "w"))
    (product,) = find_products(model.graph, image_shapes(model))
    view = view_of(next(iter(model.graph)), product)
    rows = view.rows(X, 10**6, np.random.default_rng(0))
    expected = Session(model).run(X)[0].transpose(0, 2, 3, 1).reshape(-1, 8)
    np.testing.assert_allclose(rows @ kernel.reshape(8, -1).T, expected, rtol=1e-4, atol=1e-4)
    sampled = view.rows(X, 7, np.random.default_rng(0))
    assert sampled.shape == (7, 36)
    assert all((np.abs(rows - row).max(1) == 0).any() for row in sampled)


def test_moments_of_products_with_a_weight_on_either_side():
    weights = {"r": normal(11, 16), "l": normal(16, 9), "k": np.array([0, 3], np.int64)}
    nodes = [node("MatMul", "x r", "right"), node("MatMul", "l right", "left"), node("ReduceSum", "left k", "y")]
    model = prepared(nodes, weights, ("n", 4, 9, 11), ("n", 4, 16))
    products = {each.node: each for each in find_products(model.graph, image_shapes(model))}
    nodes = {each.name: each for each in model.graph}
    views = {name: view_of(nodes[name], products[name]) for name in ("right", "left")}
    right = Session(model, outputs=["right"]).run(X)[0]
    seen = Recorder()
    found = record_moments(model, list(views.values()), [X[:2], X[2:]], RecordedTask(seen))
    for name, rows in (("right", X.reshape(-1, 11)), ("left", np.moveaxis(right, -2, -1).reshape(-1, 9))):
        np.testing.assert_allclose(found[views[name]], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)
    assert seen.moves == [(2,), (1,)]


@pytest.mark.parametrize(
    ("made", "weights"),
    [
        (node("Conv", "s k", "y", group=4), {"k": normal(8, 1, 3, 3)}),
        (node("Conv", "s k", "y", auto_pad="SAME_UPPER"), {"k": normal(8, 4, 3, 3)}),
        (node("MatMul", "s k", "y"), {"k": normal(4, 11, 16)}),
        (node("MatMul", "s s", "y"), {}),
    ],
    ids=["depthwise", "automatic padding", "a weight for each channel", "no weight"],
)
def test_other_products_are_rounded_to_the_nearest(made, weights):
    shape = ("n", 4, 11, 11) if made.op_type == "MatMul" else ("n", 4, 9, 11)
    nodes, shift = [node("Add", "x shift", "s"), made], {"shift": normal(1)}
    model = prepared(nodes, weights | shift, shape, ("n", None, None, None))
    (product,) = find_products(model.graph, image_shapes(model))
    assert view_of(next(each for each in model.graph if each.name == "y"), product) is None


def test_long_sums_are_rounded_to_the_nearest():
    model = prepared(
        [node("Gemm", "x k", "y")], {"k": normal(weights.LONGEST + 1, 16)}, ("n", weights.LONGEST + 1), ("n", 16)
    )
    product = next(iter(find_products(model.graph, image_shapes(model))))
    assert view_of(next(iter(model.graph)), product) is None


def test_views_of_one_value_are_taken_apart():
    assert View("x") != View("x", last=False) != View("x", kernel=(3, 3))
