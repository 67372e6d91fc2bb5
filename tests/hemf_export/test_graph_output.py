"""What a classifier of unknown origin gives is recognized: logits, probabilities, a single number for two classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hemf_export.files.errors import BadInputError
from hemf_export.models import graph_output, graph_source, onnx_model
from hemf_export.models.graph_source import Assumptions
from tests.calibration.classifiers import node
from tests.hemf_export import heads
from tests.hemf_export.heads import FLAT, Head

CASES = [(kind, name) for kind, found in heads.EXPECTED.items() for name in found]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[name for _, name in CASES])
def test_an_output_is_taken_for_what_it_is(tmp_path: Path, kind: str, name: str):
    head = heads.EXPECTED[kind][name]
    path = heads.write(tmp_path / "m.onnx", head)
    source = graph_source.read(path)
    proto, described, notes = source.proto, source.description, source.notes
    assert described.output_type == kind
    assert len(described.classes) == (2 if kind in ("logit", "probability") else head.width)
    told = {"probabilities": "probabilities", "logit": "single output", "probability": "single output"}
    told["probabilities"] = "sigmoids" if "sigmoid" in name else "gives probabilities"
    assert kind == "logits" or any(told[kind] in note for note in notes)
    # The shape that it really has is what the written file states, the batch open.
    images = heads.normal(5, 3, heads.SIDE, heads.SIDE)
    shape = onnx_model.sizes(proto.graph.output[0])
    assert shape is not None
    assert shape[0] is None
    raw = heads.run(path, images)
    assert int(np.prod([size for size in shape if size])) == raw.shape[1]


@pytest.mark.parametrize("head", [heads.LOGITS["as a convolution gives them"], heads.PROBABILITY["sigmoid"],
                                  heads.LOGIT["a vector"], heads.PROBABILITIES["softmax"]])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 2, 6])
def test_a_fixed_batch_is_kept(tmp_path: Path, head: Head, batch: int):
    source = graph_source.read(heads.write(tmp_path / "m.onnx", head, batch=batch))
    assert source.description.batch == batch
    assert onnx_model.sizes(source.proto.graph.output[0])[0] == batch


def test_the_row_of_a_single_image_without_its_batch(tmp_path: Path):
    """What torch's `squeeze` leaves of the output where one image is exported."""
    head = Head(nodes=(node("Squeeze", "g", "y"),), shape=(3,))
    described = graph_source.read(heads.write(tmp_path / "m.onnx", head, batch=1)).description
    assert (described.output_type, len(described.classes), described.batch) == ("logits", 3, 1)


REFUSED = {
    "the index of the class": (
        Head(nodes=(FLAT, node("ArgMax", "z", "y", axis=1)), shape=("n", 1), dtype=TensorProto.INT64), "int64"
    ),
    "a heatmap": (Head(nodes=(node("Conv", "r v b", "y", kernel_shape=[1, 1]),), shape=("n", 3, 8, 8)), "3, 8, 8"),
    "one row for all images": (
        Head(nodes=(FLAT, node("ReduceMean", "z", "y", axes=[0])), shape=(1, 3)), r"\(1, 3\) for 4 images"
    ),
    "a softmax over one output": (
        Head(width=1, nodes=(FLAT, node("Softmax", "z", "y")), shape=("n", 1)), "1 for every image"
    ),
    "double": (Head(nodes=(FLAT, node("Cast", "z", "y", to=TensorProto.DOUBLE)), dtype=TensorProto.DOUBLE), "double"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_row_of_numbers_an_image_is_refused(tmp_path: Path, name: str):
    head, words = REFUSED[name]
    with pytest.raises(BadInputError, match=words) as error:
        graph_source.read(heads.write(tmp_path / "m.onnx", head))
    assert error.value.hint


def test_a_sigmoid_that_is_1_for_every_image_of_noise_is_one(tmp_path: Path):
    """A sure network: what it gives for noise says nothing of real images."""
    head = Head(width=1, nodes=(FLAT, node("Add", "z far", "w"), node("Sigmoid", "w", "s"), node("Identity", "s", "y")),
                weights={"far": np.array(99, np.float32)}, shape=("n", 1))  # fmt: skip
    path = heads.write(tmp_path / "m.onnx", head)
    assert (heads.run(path, heads.normal(4, 3, heads.SIDE, heads.SIDE)) == 1).all(), "planted"
    assert graph_source.read(path).description.output_type == "probability"


def test_two_classes_of_a_single_output_have_two_names(tmp_path: Path):
    path = heads.write(tmp_path / "m.onnx", heads.PROBABILITY["sigmoid"])
    named = Assumptions(classes=("benign", "malignant"))
    assert graph_source.read(path, named).description.classes == ("benign", "malignant")
    assert graph_source.read(path).description.classes == ("class_0", "class_1")
    for names in (("malignant",), ("a", "b", "c")):
        with pytest.raises(BadInputError, match="two classes of the one output"):
            graph_source.read(path, Assumptions(classes=names))


BOUNDS = {
    "Relu": (["x"], (0.0, np.inf)), "Conv": (["x", "k"], (-np.inf, np.inf)), "Tanh": (["x"], (-1.0, 1.0)),
    "Abs": (["x"], (0.0, np.inf)), "Exp": (["x"], (0.0, np.inf)), "Softplus": (["x"], (0.0, np.inf)),
    "Gelu": (["x"], (-np.inf, np.inf)), "LogSoftmax": (["x"], (-np.inf, 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("operator", BOUNDS)
def test_bounds_of_one_operator(operator: str):
    inputs, expected = BOUNDS[operator]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"])], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    assert graph_output.output_bounds(helper.make_model(graph)) == [expected]


def test_bounds_hold_of_random_graphs():
    """Whatever chain of operators: no value that ONNX Runtime computes is outside."""
    import onnxruntime

    random = np.random.default_rng(3)
    unary = ["Sigmoid", "Tanh", "Exp", "Neg", "Abs", "Relu", "Softmax", "Reciprocal", "Sqrt", "HardSigmoid", "Identity"]
    binary = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"]
    constants = {"c1": 1.0, "c2": -2.5, "c3": 0.25}
    for trial in range(60):
        names, nodes = ["x", *constants], []
        for index in range(8):
            operator = str(random.choice(unary + binary))
            inputs = [str(random.choice(names)) for _ in range(1 if operator in unary else 2)]
            nodes.append(helper.make_node(operator, inputs, [f"v{index}"]))
            names.append(f"v{index}")
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
            [helper.make_tensor_value_info(one.output[0], TensorProto.FLOAT, None) for one in nodes],
            [onnx.numpy_helper.from_array(np.full((2, 5), value, np.float32), name)
             for name, value in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": (random.standard_normal((2, 5)) * 4).astype(np.float32)})
        for value, (low, high) in zip(found, graph_output.output_bounds(model), strict=True):
            finite = value[np.isfinite(value)]
            slack = 1e-4 * (1 + np.abs(finite))
            assert ((finite >= low - slack) & (finite <= high + slack)).all(), (trial, nodes)
