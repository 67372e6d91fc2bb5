"""ONNX files that are not what our next stages take.

A file that points at `/etc/passwd` for its weights, one that a crash cut short, one of another network, one that was
edited after its manifest was written. All are refused by protobuf alone, before a native parser sees them, and what
they point at is never opened.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import SourceSize
from hemf_export.models import onnx_model
from hemf_export.models.description import Description
from hemf_export.models.model_file import OnnxFile
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request

DESCRIPTION = Description(
    name="test",
    classes=("bright", "dark", "striped"),
    preprocess=Preprocess.for_size(32),
    precision="fp32",
    input_type="float32",
    batch=None,
    checkpoint_sha256="0" * 64,
    versions={"hemf-export": "0"},
)
Value = tuple[str, int, list | None]
IMAGES: Value = ("images", TensorProto.FLOAT, ["batch", 3, 32, 32])
LOGITS: Value = ("logits", TensorProto.FLOAT, ["batch", 3])


def make(
    inputs: tuple[Value, ...] = (IMAGES,),
    outputs: tuple[Value, ...] = (LOGITS,),
    description: Description | None = DESCRIPTION,
) -> onnx.ModelProto:
    """A small model that averages each channel, described as one of ours."""
    nodes = [
        helper.make_node("Add", ["images", "shift"], ["shifted"]),
        helper.make_node("ReduceMean", ["shifted", "axes"], ["logits"], keepdims=0),
    ]
    weights = [
        helper.make_tensor("shift", TensorProto.FLOAT, [1], [0.5]),
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if description is not None:
        described = ir.serde.deserialize_model(model)
        onnx_model.describe(described, description)
        model = ir.serde.serialize_model(described)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_the_whole_file_of_these_tests_is_taken(path: Path, run_cli):
    _, description = OnnxFile.open(save(make(), path)).read_ours()
    assert description == DESCRIPTION
    code, stdout, _ = run_cli("bench", path, "--batch", "1", "--no-memory", "--seconds", "0.05", "--json")
    assert (code, len(json.loads(stdout)["timings"])) == (0, 1)


def external(location: str, **fields: int) -> TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def in_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def in_sparse_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add(values=tensor, dims=[1])


def in_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_list_of_an_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node[0].attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)


def in_sparse_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor, dims=[1])
    model.graph.node[0].attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)


def in_branch_within_branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["outside"], ["y"])], "inner", [], [], [tensor])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=outer))


def function(nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function("local", "F", [], ["y"], nodes, [helper.make_opsetid("", 20)])


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.functions.append(function([helper.make_node("Constant", [], ["y"], value=tensor)]))


def in_branch_of_a_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [tensor])
    model.functions.append(function([helper.make_node("If", ["c"], ["y"], then_branch=branch)]))


def in_default_of_a_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.functions.append(function([]))
    model.functions[0].attribute_proto.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)


def in_training_graph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = [
    in_initializer,
    in_sparse_initializer,
    in_attribute,
    in_list_of_an_attribute,
    in_sparse_attribute,
    in_branch_within_branch,
    in_function,
    in_branch_of_a_function,
    in_default_of_a_function,
    in_training_graph,
]


class Opened:
    """The paths that Python opens while it watches; audit hooks can't be taken away again."""

    def __init__(self) -> None:
        self.watching = False
        self.paths: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and event == "open":
            self.paths.append(str(arguments[0]))


@pytest.fixture(scope="module")
def listener() -> Opened:
    return Opened()


@pytest.fixture
def opened(listener: Opened):
    listener.paths.clear()
    yield listener
    listener.watching = False


@pytest.mark.parametrize("location", ["../../etc/passwd", "a/../../secret", "/etc/passwd", "weights.data"])
def test_external_data_is_refused_and_not_opened(path: Path, refused, opened: Opened, location):
    for place in (path.parent.parent / "secret", path.parent / "weights.data"):
        place.write_bytes(b"\0" * 4)
    model = make()
    in_initializer(model, external(location))
    save(model, path)
    opened.watching = True
    with pytest.raises(BadInputError, match=r"model\.onnx keeps 1 tensors in other files \(outside\): refused"):
        OnnxFile.open(path).read_ours()
    opened.watching = False
    assert set(opened.paths) == {str(path)}
    assert "self-contained" in refused("bench", path, names=path)


@pytest.mark.parametrize("put", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(path: Path, refused, put: Callable):
    model = make()
    put(model, external("/etc/passwd", offset=-1, length=10**15))
    assert "keeps 1 tensors in other files" in refused("bench", save(model, path), names=path)


def test_external_data_without_the_mark_of_its_location_is_refused(path: Path):
    tensor = external("/etc/passwd")
    tensor.ClearField("data_location")
    model = make()
    in_initializer(model, tensor)
    with pytest.raises(BadInputError, match="other files"):
        OnnxFile.open(save(model, path)).read_ours()


@pytest.mark.parametrize("data", [b"", b"\0" * 100, random.Random(0).randbytes(2000), b"<html>"])
def test_bytes_that_are_no_model_are_refused(path: Path, refused, data):
    path.write_bytes(data)
    assert "is not a whole ONNX file" in refused("bench", path, names=path)


@pytest.mark.parametrize("share", ["1 %", "50 %", "one byte short"])
def test_a_cut_file_is_refused(path: Path, refused, share):
    data = make().SerializeToString()
    path.write_bytes(data[: {"1 %": len(data) // 100, "50 %": len(data) // 2, "one byte short": -1}[share]])
    assert "is not a whole ONNX file" in refused("bench", path, names=path)


def test_a_file_cut_anywhere_is_refused(path: Path):
    data = make().SerializeToString()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(BadInputError, match=path.name):
            OnnxFile.open(path).read_ours()


def test_damaged_bytes_are_refused_or_leave_the_signature_as_it_was(path: Path):
    data, draw = make().SerializeToString(), random.Random(0)
    messages = []
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 2, 5))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            model, description = OnnxFile.open(path).read_ours()
        except BadInputError as error:
            messages.append(error.message)
        else:
            assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:] == [3, 32, 32]
            assert len(description.classes) == 3
    assert len(messages) > 200
    assert all(str(path) in message for message in messages)


def other(shape: list | None, kind: int = TensorProto.FLOAT) -> tuple[Value, ...]:
    return (("images", kind, shape),)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        pytest.param((), "none", id="none"),
        pytest.param((IMAGES, ("mask", TensorProto.BOOL, [1])), "float32 (any, 3, 32, 32); bool (1)", id="two"),
        pytest.param(other(["batch", 3, 32]), "float32 (any, 3, 32)", id="rank"),
        pytest.param(other(None), "float32 (any shape)", id="no-rank"),
        pytest.param(other(["batch", 3, 64, 64]), "float32 (any, 3, 64, 64)", id="size"),
        pytest.param(other(["batch", 1, 32, 32]), "float32 (any, 1, 32, 32)", id="channels"),
        pytest.param(other(["batch", 32, 32, 3]), "float32 (any, 32, 32, 3)", id="layout"),
        pytest.param(other(["batch", 3, "h", "w"]), "float32 (any, 3, any, any)", id="free-size"),
        pytest.param(other([4, 3, 32, 32]), "float32 (4, 3, 32, 32)", id="fixed-batch"),
        pytest.param(other(IMAGES[2], TensorProto.UINT8), "uint8 (any, 3, 32, 32)", id="uint8"),
        pytest.param(other(IMAGES[2], TensorProto.FLOAT16), "float16 (any, 3, 32, 32)", id="float16"),
        pytest.param(other(IMAGES[2], TensorProto.BFLOAT16), "bfloat16 (any, 3, 32, 32)", id="bfloat16"),
        pytest.param(other(IMAGES[2], 99), "unknown type (any, 3, 32, 32)", id="unknown-type"),
    ],
)
def test_other_inputs_are_told_beside_the_expected_ones(path: Path, refused, inputs, found):
    model = make()
    del model.graph.input[:]
    model.graph.input.extend(helper.make_tensor_value_info(*value) for value in inputs)
    message = refused("bench", save(model, path), names=path)
    assert f"found the inputs {found}; expected float32 (any, 3, 32, 32)." in message


def test_an_input_that_is_no_tensor_is_told(path: Path):
    model = make()
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("images", TensorProto.FLOAT, None))
    with pytest.raises(BadInputError, match=r"found the inputs sequence_type \(no tensor\); expected float32"):
        OnnxFile.open(save(model, path)).read_ours()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch": 4}, "float32 (4, 3, 32, 32)"),
        ({"input_type": "uint8"}, "uint8 (any, 32, 32, 3)"),
        ({"preprocess": Preprocess.for_size(64)}, "float32 (any, 3, 64, 64)"),
        ({"input_type": "uint8", "source_size": SourceSize(450, 600)}, "uint8 (any, 450, 600, 3)"),
    ],
    ids=["batch", "input-type", "size", "source-size"],
)
def test_a_description_of_another_input_is_told(path: Path, refused, changes, expected):
    model = make(description=dataclasses.replace(DESCRIPTION, **changes))
    message = refused("bench", save(model, path), names=path)
    assert f"found the inputs float32 (any, 3, 32, 32); expected {expected}." in message


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ((("logits", TensorProto.FLOAT, ["batch", 5]),), "float32 (any, 5)"),
        ((LOGITS, ("features", TensorProto.FLOAT, ["batch", 8])), "float32 (any, 3); float32 (any, 8)"),
        ((), "none"),
    ],
    ids=["classes", "two", "none"],
)
def test_other_outputs_are_told_beside_the_expected_one(path: Path, refused, outputs, found):
    model = make()
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(*value) for value in outputs)
    message = refused("bench", save(model, path), names=path)
    assert f"found the outputs {found}; expected float32 (any, 3)." in message


def test_a_file_of_another_program_is_refused_with_the_way_to_make_ours(path: Path, refused):
    message = refused("triton", save(make(description=None), path), "-o", path.parent / "repository", names=path)
    assert "has no hemf-export metadata" in message
    assert "hemf-export onnx CKPT" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"classes": [], "preprocess": {}}',
        *(
            json.dumps({**DESCRIPTION.to_dict(), **change})
            for change in (
                {"classes": "abc"},
                {"classes": [1, 2, 3]},
                {"classes": []},
                {"precision": "fp8"},
                {"input_type": "float64"},
                {"batch": -3},
                {"batch": True},
                {"preprocess": None},
                {"preprocess": {"size": "32"}},
                {"preprocess": {"sise": 32}},
                {"checkpoint_sha256": None},
                {"name": 3},
                {"more": 1},
            )
        ),
    ],
)
def test_metadata_that_make_no_sense_are_refused(path: Path, text):
    model = make(description=None)
    model.metadata_props.add(key="hemf", value=text)
    with pytest.raises(BadInputError, match=r"model\.onnx: its hemf-export metadata"):
        OnnxFile.open(save(model, path)).read_ours()


def test_a_file_that_is_not_the_one_of_its_manifest_is_refused(path: Path, refused):
    artifacts.write_manifest(save(make(), path), {"kind": "onnx"})
    OnnxFile.open(path).read_ours()
    model = make()
    model.graph.initializer[0].float_data[:] = []
    model.graph.initializer[0].raw_data = b"\0\0\0\1"
    save(model, path)
    message = refused("bench", path, names=path)
    assert "is not the file that model.onnx.json describes" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_a_manifest_that_is_none_is_named(path: Path, refused, text):
    manifest = artifacts.manifest_path(save(make(), path))
    manifest.write_text(text, encoding="latin-1")
    assert "is not a manifest" in refused("bench", path, names=manifest)


def test_a_refused_file_leaves_an_earlier_float16_file_as_it_was(path: Path):
    model = make()
    in_initializer(model, external("weights.data"))
    output = path.with_name("model.fp16.onnx")
    output.write_bytes(b"earlier")
    with pytest.raises(BadInputError, match="other files"):
        quantize.make(Request(save(model, path), output=output))
    assert output.read_bytes() == b"earlier"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.fp16.onnx", "model.onnx"]


def test_bad_files_in_a_folder_do_not_stop_the_search_for_ours(tmp_path: Path, monkeypatch, refused):
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "random.onnx").write_bytes(random.Random(1).randbytes(500))
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "dangling.onnx").symlink_to("nowhere.onnx")
    monkeypatch.chdir(tmp_path)
    refused("bench", names=tmp_path)
    save(make(), tmp_path / "ours.onnx")
    from hemf_export.models import discover

    assert [found.name for found in discover.onnx_files(tmp_path)] == ["ours.onnx"]
