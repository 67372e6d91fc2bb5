"""What a converted graph stores: weights beside the float32 ones, steps beside the values that they are for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.stored import step_uses, weight_errors
from tests.conftest import RecordedTask, Recorder

WEIGHT = np.array([[1, -2, 3, -4], [0.5, 0.25, -1, 1], [10, 20, -30, 40]], np.float32)  # (outputs, inputs)
X = np.array([[1, -2, 0.5, 4]], np.float32)


def graph(nodes: list, weights: dict[str, np.ndarray]) -> ir.Model:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return ir.serde.deserialize_model(model)


def exact(weight: np.ndarray = WEIGHT) -> ir.Model:
    return graph([helper.make_node("Gemm", ["x", "w"], ["y"], "product", transB=1)], {"w": weight})


def quantized(step: float = 4 / 127, factor: float = 1.0, zero: np.ndarray | None = None, dead: int | None = None):
    """The same in INT8: `factor` on all steps of the weight, a dead channel."""
    steps = (np.abs(WEIGHT).max(1) / 127).astype(np.float32)
    int8 = np.round(WEIGHT / steps[:, None]).astype(np.int8)
    if dead is not None:
        int8[dead] = 0
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "down"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "up"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "weight", axis=0),
        helper.make_node("Gemm", ["xd", "wd"], ["y"], "product", transB=1),
    ]
    return graph(
        nodes,
        {
            "s": np.float32(step), "z": np.int8(0) if zero is None else zero,
            "wq": int8, "ws": steps * np.float32(factor), "wz": np.zeros(3, np.int8),
        },
    )  # fmt: skip


def test_rounding_to_int8_is_no_error():
    (found,) = weight_errors(exact(), quantized())
    assert (found.node, found.weight, found.error) == ("product", "w", 0.0)


@pytest.mark.parametrize(("factor", "error"), [(10.0, 9.0), (0.1, 0.9)])
def test_a_wrong_step_of_a_weight_is_an_error_of_all_of_it(factor, error):
    (found,) = weight_errors(exact(), quantized(factor=factor))
    assert found.error == pytest.approx(error, rel=0.1)


def test_one_dead_channel_is_an_error_of_1():
    (found,) = weight_errors(exact(), quantized(dead=1))
    assert found.error == pytest.approx(1.0, rel=0.02)


def test_float16_is_off_by_its_rounding_and_a_turned_weight_by_more():
    def half(weight: np.ndarray) -> ir.Model:
        nodes = [
            helper.make_node("Cast", ["w16"], ["w32"], "widen", to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["x", "w32"], ["y"], "product", transB=1),
        ]
        return graph(nodes, {"w16": weight.astype(np.float16)})

    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    (sound,) = weight_errors(exact(weight), half(weight))
    assert 0 < sound.error < 2**-11
    (turned,) = weight_errors(exact(weight), half(weight[:, ::-1]))
    assert turned.error > 0.5
    nan = weight.copy()
    nan[0, 0] = np.nan
    assert weight_errors(exact(weight), half(nan))[0].error == np.inf


def test_a_node_of_another_kind_or_name_is_not_compared():
    other = graph([helper.make_node("Gemm", ["x", "w"], ["y"], "another", transB=1)], {"w": WEIGHT})
    assert weight_errors(exact(), other) == []


MANY = [factor * X for factor in (0.8, 1.0, 1.25)] * 10


def allowed(*shares: float) -> float:
    """What many images would reach, by the largest values of some."""
    return float(np.exp(np.mean(np.log(shares)) + 4 * np.std(np.log(shares))))


def test_a_step_that_fits_goes_as_far_as_the_values_and_others_do_not():
    (fit,) = step_uses(exact(), quantized(5 / 127), MANY)
    assert (fit.value, fit.node, fit.clipped) == ("x", "product", pytest.approx(0.0))
    assert fit.excess == pytest.approx(5 / (4 * allowed(0.8, 1.0, 1.25)))
    assert fit.excess < 1
    (wide,) = step_uses(exact(), quantized(50 / 127), MANY)
    assert wide.excess == pytest.approx(10 * fit.excess)
    (narrow,) = step_uses(exact(), quantized(0.4 / 127), [X])
    left = np.array([0.6, 1.6, 0.1, 3.6])  # of the values: what is beyond 0.4
    assert narrow.clipped == pytest.approx((left**2).sum() / (X**2).sum())


def test_values_that_differ_much_from_image_to_image_may_be_larger_in_others():
    (wide,) = step_uses(exact(), quantized(50 / 127), [X / 10, X / 3, X] * 10)
    assert wide.excess < 1


def test_what_never_opens_is_not_judged_and_few_images_little():
    closed = np.zeros_like(X)
    assert step_uses(exact(), quantized(40 / 127), [closed] * 20)[0].excess == 0.0
    (one,) = step_uses(exact(), quantized(40 / 127), [X])
    (many,) = step_uses(exact(), quantized(40 / 127), [X] * 50)
    assert one.excess < 1 < 5 < many.excess


def test_an_asymmetric_range_fits_where_either_side_does():
    zero, step = np.uint8(85), np.float32(6 / 255)  # -2 to 4
    (fit,) = step_uses(exact(), quantized(step, zero=zero), [X] * 1000)
    assert fit.excess == pytest.approx(1.0, rel=0.01)
    (wide,) = step_uses(exact(), quantized(10 * step, zero=zero), [X] * 1000)
    assert wide.excess == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf")])
def test_a_step_that_is_none_fits_nothing(step):
    (found,) = step_uses(exact(), quantized(step), [X])
    assert found.clipped == 1.0


def test_every_batch_counts_and_is_told():
    told = Recorder()
    (found,) = step_uses(exact(), quantized(4 / 127), [X / 4, np.concatenate([X, X / 2]), X / 2], RecordedTask(told))
    assert found.excess == pytest.approx(1 / allowed(0.25, 1.0, 0.5))
    assert told.moves == [(1,), (2,), (1,)]
