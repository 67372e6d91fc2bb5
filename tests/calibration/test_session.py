"""Batches that run side by side give what they give alone, in their order; weights are handed over, not copied."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.session import Session, skeleton
from hemf_export.files.errors import BadInputError

SIZE = 64


def chain(*, unused: bool = False) -> onnx.ModelProto:
    """Products with large weights; one of them may be used by nothing."""
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal((SIZE, SIZE)).astype("f4") / 8 for name in ("a", "b")}
    if unused:
        weights["left over"] = np.ones((SIZE, SIZE), "f4")
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "b"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZE])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def batches(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal((1 + number % 3, SIZE)).astype("f4") for number in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_batches_side_by_side_come_in_their_order(threads, count):
    alone = Session(ir.from_proto(chain()), threads=1)
    session = Session(ir.from_proto(chain()), threads=threads, stream=True)
    taken = batches(count)
    found = list(session.stream(iter(taken)))
    assert len(found) == count
    for (batch, (result,)), given in zip(found, taken, strict=True):
        assert batch is given
        np.testing.assert_allclose(result, alone.run(given)[0], rtol=1e-5, atol=1e-6)


def test_a_batch_that_fails_is_told_behind_those_before_it():
    session = Session(ir.from_proto(chain()), threads=2, stream=True)
    stream = session.stream([*batches(5), np.zeros((2, SIZE + 1), "f4"), *batches(5)])
    assert [len(next(stream)[0]) for _ in range(5)] == [len(batch) for batch in batches(5)]
    with pytest.raises(BadInputError, match="on a batch of 2"):
        next(stream)


def test_no_more_batches_are_taken_than_run_at_once():
    session = Session(ir.from_proto(chain()), threads=2, stream=True)
    taken = []

    def given():
        for batch in batches(20):
            taken.append(batch)
            yield batch

    stream = session.stream(given())
    next(stream)
    assert len(taken) <= 4
    stream.close()


def test_values_within_the_graph_can_be_streamed():
    session = Session(ir.from_proto(chain()), outputs=["t", "y"], threads=2, stream=True)
    for batch, (inner, last) in session.stream(batches(6)):
        assert np.array_equal(session.run(batch, ["t"])[0], inner)
        assert last.shape == batch.shape


def test_a_skeleton_has_no_weights_and_leaves_the_model_as_it_was():
    model = ir.from_proto(chain())
    before = ir.to_proto(model)
    proto, weights = skeleton(model, ["t"])
    assert set(weights) == {"a", "b"}
    assert proto.ByteSize() < 2000 < before.ByteSize()
    assert [output.name for output in proto.graph.output] == ["y", "t"]
    assert ir.to_proto(model) == before
    assert not any(value.is_graph_output() for node in model.graph for value in node.outputs if value.name == "t")


def test_a_weight_that_nothing_uses_does_no_harm():
    batch = batches(1)[0]
    plain = Session(ir.from_proto(chain())).run(batch)[0]
    assert np.array_equal(Session(ir.from_proto(chain(unused=True))).run(batch)[0], plain)
