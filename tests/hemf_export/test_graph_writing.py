"""A file that is written weight by weight is the file that the protobuf library would have written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.session import Session
from hemf_export.export import graph_writing
from hemf_export.files.errors import BadInputError


@pytest.fixture
def proto() -> onnx.ModelProto:
    """Large weights of several types among small ones, one of them shared and one that is not used."""
    generator = np.random.default_rng(0)
    weights = {
        "k": generator.standard_normal((40, 3, 6, 6)).astype("f4"), "small": generator.standard_normal(40).astype("f4"),
        "w": generator.standard_normal((40, 300)).astype("f4"), "half": np.full((64, 64), 0.5, "f2"),
        "shape": np.array([0, -1]), "integers": generator.integers(-9, 9, (100, 100)).astype("i1"),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k", "small"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 300])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, {"key": "value"})
    return made


def in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.initializer.sort(key=lambda initializer: initializer.name)
    return proto


def test_the_file_holds_the_same_message(tmp_path, proto):
    model = ir.from_proto(proto)
    graph_writing.save(model, tmp_path / "own.onnx")
    ir.save(model, tmp_path / "library.onnx")
    own, library = (onnx.load(tmp_path / f"{name}.onnx") for name in ("own", "library"))
    onnx.checker.check_model(own)
    assert in_order(own) == in_order(library)
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype("f4")
    found = (Session(each).run(images)[0] for each in (model, tmp_path / "own.onnx", tmp_path / "library.onnx"))
    in_memory, from_own, from_library = found
    assert np.array_equal(from_own, from_library)
    assert np.array_equal(in_memory, from_library)


def test_the_model_stays_as_it_was(tmp_path, proto):
    model = ir.from_proto(proto)
    before = ir.to_proto(model)
    graph_writing.save(model, tmp_path / "first.onnx")
    assert ir.to_proto(model) == before
    graph_writing.save(model, tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_what_one_message_cannot_hold_is_refused(tmp_path, monkeypatch, proto):
    model = ir.from_proto(proto)
    graph_writing.save(model, tmp_path / "m.onnx")
    size = (tmp_path / "m.onnx").stat().st_size
    monkeypatch.setattr(graph_writing, "_MOST_BYTES", size)
    graph_writing.save(model, tmp_path / "m.onnx")
    monkeypatch.setattr(graph_writing, "_MOST_BYTES", size - 1)
    with pytest.raises(BadInputError, match="2 GB"):
        graph_writing.save(model, tmp_path / "m.onnx")
