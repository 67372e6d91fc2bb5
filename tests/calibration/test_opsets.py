"""Graphs of older opsets: what work starts from computes what the user's own file does, operator by operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.session import Session

IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8}
GENERATOR = np.random.default_rng(0)


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """`-` is an input that is left out."""
    return helper.make_node(
        kind, ["" if name == "-" else name for name in inputs.split()], outputs.split(), name=outputs, **attributes
    )


def values(*shape: int) -> np.ndarray:
    return (GENERATOR.standard_normal(shape) * 0.3).astype(np.float32)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def scales(factor: float) -> np.ndarray:
    return np.array([1, 1, factor, factor], np.float32)


NORM = {"s": values(8) + 1, "b": values(8), "mean": values(8), "var": np.abs(values(8)) + 0.5}
# From c, (N, 8, 16, 16), to m, with as many channels: name → (opset, nodes, constants).
CASES = {
    "Upsample 7, nearest": (7, [node("Upsample", "c", "m", mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "Upsample 7, linear": (7, [node("Upsample", "c", "m", mode="linear", scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "Upsample 9, nearest": (9, [node("Upsample", "c s", "m")], {"s": scales(1.5)}),
    "Upsample 9, linear": (9, [node("Upsample", "c s", "m", mode="linear")], {"s": scales(3)}),
    "Resize 10, linear": (10, [node("Resize", "c s", "m", mode="linear")], {"s": scales(2)}),
    "Resize 10, linear, smaller": (10, [node("Resize", "c s", "m", mode="linear")], {"s": scales(0.5)}),
    "Resize 10, nearest": (10, [node("Resize", "c s", "m")], {"s": scales(1.7)}),
    "Resize 10, nearest, smaller": (10, [node("Resize", "c s", "m")], {"s": scales(0.6)}),
    "Resize 10, scales of a Constant": (
        10,
        [node("Constant", "", "s", value=numpy_helper.from_array(scales(0.7))), node("Resize", "c s", "m")],
        {},
    ),
    "Resize 11": (11, [node("Resize", "c roi s", "m", mode="linear")], {"roi": values(0), "s": scales(2)}),
    "Resize 11, TensorFlow's": (
        11,
        [node("Resize", "c roi s", "m", coordinate_transformation_mode="tf_half_pixel_for_nn")],
        {"roi": np.zeros(0, np.float32), "s": scales(2)},
    ),
    "Resize 13, cubic": (
        13,
        [node("Resize", "c - s", "m", mode="cubic", coordinate_transformation_mode="align_corners")],
        {"s": scales(1.5)},
    ),
    "Resize 18, antialiased": (18, [node("Resize", "c - s", "m", mode="linear", antialias=1)], {"s": scales(0.5)}),
    "Softmax 9": (9, [node("Softmax", "c", "m")], {}),
    "Softmax 12, axis 2": (12, [node("Softmax", "c", "m", axis=2)], {}),
    "Softmax 13": (13, [node("Softmax", "c", "m")], {}),
    "LogSoftmax 11": (11, [node("LogSoftmax", "c", "m", axis=1)], {}),
    "Hardmax 11": (11, [node("Hardmax", "c", "h"), node("Add", "h c", "m")], {}),
    "Hardmax 11, axis 3": (11, [node("Hardmax", "c", "h", axis=3), node("Add", "h c", "m")], {}),
    "Hardmax 13": (13, [node("Hardmax", "c", "h", axis=1), node("Add", "h c", "m")], {}),
    "BatchNormalization 7": (7, [node("BatchNormalization", "c s b mean var", "m")], NORM),
    "BatchNormalization 9": (9, [node("BatchNormalization", "c s b mean var", "m")], NORM),
    "BatchNormalization 14": (14, [node("BatchNormalization", "c s b mean var", "m")], NORM),
    "Dropout 7": (7, [node("Dropout", "c", "m", ratio=0.9)], {}),
    "Dropout 12": (12, [node("Dropout", "c share", "m")], {"share": np.array(0.9, np.float32)}),
    "Clip 7": (7, [node("Clip", "c", "m", min=0.0, max=0.3)], {}),
    "Clip 11, no lower end": (11, [node("Clip", "c - high", "m")], {"high": np.array(0.2, np.float32)}),
    "Pad 9, reflect": (9, [node("Pad", "c", "m", mode="reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1])], {}),
    "Pad 10, edge": (10, [node("Pad", "c", "m", mode="edge", pads=[0, 0, 1, 2, 0, 0, 1, 0])], {}),
    "Pad 10, constant": (10, [node("Pad", "c", "m", value=0.7, pads=[0, 0, 1, 2, 0, 0, 1, 0])], {}),
    "Slice 9": (9, [node("Slice", "c", "m", axes=[2, 3], starts=[1, 1], ends=[-1, 100])], {}),
    "Slice 10, backwards": (
        10,
        [node("Slice", "c start end axes steps", "m")],
        {"start": integers(1, 14), "end": integers(100, -100), "axes": integers(2, 3), "steps": integers(1, -2)},
    ),
    "ReduceSum 11": (11, [node("ReduceSum", "c", "r", axes=[1]), node("Mul", "r c", "m")], {}),
    "ReduceSum 11, no axis kept": (
        11,
        [node("ReduceSum", "c", "r", axes=[-1], keepdims=0), node("Unsqueeze", "r", "u", axes=[3]),
         node("Mul", "u c", "m")],
        {},
    ),
    "ReduceMean 13": (13, [node("ReduceMean", "c", "r", axes=[2, 3]), node("Mul", "r c", "m")], {}),
    "ReduceL2 11": (11, [node("ReduceL2", "c", "r", axes=[1]), node("Div", "c r", "m")], {}),
    "TopK 9": (9, [node("TopK", "c", "m places", axis=1, k=8)], {}),
    "TopK 10": (10, [node("TopK", "c k", "m places", axis=1)], {"k": integers(8)}),
    "Squeeze 11": (
        11,
        [
            node("GlobalAveragePool", "c", "g"), node("Squeeze", "g", "q", axes=[2, 3]),
            node("Unsqueeze", "q", "u", axes=[2, 3]), node("Mul", "u c", "m"),
        ],
        {},
    ),
    "Split 11": (11, [node("Split", "c", "a z", axis=1, split=[4, 4]), node("Concat", "z a", "m", axis=1)], {}),
    "Split 13": (13, [node("Split", "c", "a z", axis=1), node("Concat", "z a", "m", axis=1)], {}),
    "HardSwish 14": (14, [node("HardSwish", "c", "m")], {}),
    "HardSigmoid 8": (8, [node("HardSigmoid", "c", "s"), node("Mul", "s c", "m")], {}),
    "AveragePool 10, ceil": (
        10,
        [node("AveragePool", "c", "m", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1])],
        {},
    ),
    "MaxPool 8, SAME_LOWER": (
        8, [node("MaxPool", "c", "m", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")], {},
    ),
    "PRelu 7": (7, [node("PRelu", "c slope", "m")], {"slope": values(8, 1, 1)}),
    "InstanceNormalization 7": (7, [node("InstanceNormalization", "c s b", "m")], {"s": NORM["s"], "b": NORM["b"]}),
    "MeanVarianceNormalization 9": (9, [node("MeanVarianceNormalization", "c", "m")], {}),
    "Mod 10": (10, [node("Mod", "c quarter", "m", fmod=1)], {"quarter": np.array(0.25, np.float32)}),
    "DepthToSpace 11": (
        11, [node("DepthToSpace", "c", "wide", blocksize=2, mode="CRD"),
             node("SpaceToDepth", "wide", "m", blocksize=2)], {},
    ),
    "Reshape 7, with 0 and -1": (
        7, [node("Reshape", "c one", "r"), node("Reshape", "r two", "m")],
        {"one": integers(0, 8, -1), "two": integers(0, 0, 16, 16)},
    ),
    "ArgMax 11": (
        11, [node("ArgMax", "c", "a", axis=1), node("Cast", "a", "f", to=TensorProto.FLOAT),
             node("Mul", "c f", "m")], {},
    ),
    "LayerNormalization 17": (
        17,
        [
            node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("LayerNormalization", "t s b", "l", epsilon=1e-6),
            node("Transpose", "l", "m", perm=[0, 3, 1, 2]),
        ],
        {"s": NORM["s"], "b": NORM["b"]},
    ),
    "Gelu 20": (20, [node("Gelu", "c", "m", approximate="tanh")], {}),
    "GroupNormalization 21": (21, [node("GroupNormalization", "c s b", "m", num_groups=2)], NORM),
    "Resize to sizes that the graph computes": (
        13,
        [
            node("Shape", "c", "shape"), node("Slice", "shape first third", "batch"),
            node("Concat", "batch side", "sizes", axis=0),
            node("Resize", "c - - sizes", "m", mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        ],
        {"first": integers(0), "third": integers(2), "side": integers(24, 24)},
    ),
}  # fmt: skip


def classifier(opset: int, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """x → convolution c → `nodes` → m → logits y; constants are inputs as well where the opset asks it."""
    before = [node("Conv", "x stem", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])]
    after = [
        node("Conv", "m deep", "d", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "d", "relu"),
        node("GlobalAveragePool", "relu", "pooled"), node("Flatten", "pooled", "flat"),
        node("Gemm", "flat head bias", "y"),
    ]  # fmt: skip
    weights = {"stem": values(8, 3, 3, 3), "deep": values(16, 8, 3, 3), "head": values(16, 4), "bias": values(4)}
    tensors = [numpy_helper.from_array(array, name) for name, array in {**weights, **constants}.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    listed = [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in tensors] * (opset < 9)
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([*before, *nodes, *after], "classifier", [image, *listed], [logits], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSIONS.get(opset, 10)
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_graph_that_work_starts_from_computes_what_the_file_does(case):
    opset, nodes, constants = case
    file = classifier(opset, nodes, constants)
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    prepared = Session(prepare(file))
    for images in (1, 3):
        pixels = np.random.default_rng(images).standard_normal((images, 3, 32, 32)).astype(np.float32)
        assert np.abs(prepared.logits(pixels) - session.run(None, {"x": pixels})[0]).max() < 1e-4
