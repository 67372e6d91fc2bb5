"""Small classifiers whose last layers are as people have them: single outputs, probabilities, axes of size 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hemf_export.images import folders
from hemf_export.images.images import Preprocess
from tests.calibration.classifiers import node, normal

SIDE, FEATURES = 32, 16


@dataclass(frozen=True)
class Head:
    """What comes behind `g`, (N, width, 1, 1), the logits of a convolution; by default nothing.

    Args:
        width: of the logits.
        nodes: from `g` to `y`.
        weights: that they take.
        shape: of `y`, as the file states it; None for no shape.
        opset: of the file.
        dtype: of `y`.
    """

    width: int = 3
    nodes: tuple[onnx.NodeProto, ...] = ()
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    shape: tuple[int | str, ...] | None = ("n", 3)
    opset: int = 17
    dtype: int = TensorProto.FLOAT


FLAT = node("Flatten", "g", "z")
ONE = {"one": np.array(1, np.float32)}
AXES = {"axes": np.array([1], np.int64), "ends": np.array([2], np.int64), "middle": np.array([1], np.int64)}


def sigmoid(to: str = "y") -> onnx.NodeProto:
    return node("Sigmoid", "z", to)


LOGITS = {
    "flat": Head(nodes=(node("Flatten", "g", "y"),)),
    "as a convolution gives them": Head(nodes=(node("Identity", "g", "y"),), shape=("n", 3, 1, 1)),
    "as a convolution gives them, without a shape": Head(nodes=(node("Identity", "g", "y"),), shape=None),
    "channels last": Head(nodes=(node("Transpose", "g", "y", perm=[0, 2, 3, 1]),), shape=("unk__7", 1, 1, 3)),
    "one axis left": Head(
        nodes=(node("Reshape", "g to", "y"),), weights={"to": np.array([-1, 3, 1], np.int64)}, shape=("?", 3, 1)
    ),
    "a batch of -1": Head(nodes=(node("Flatten", "g", "y"),), shape=(-1, 3)),
    "a batch of 0": Head(nodes=(node("Flatten", "g", "y"),), shape=(0, 3)),
    "logarithms": Head(nodes=(FLAT, node("LogSoftmax", "z", "y", axis=1))),
    "float16 at the end": Head(nodes=(FLAT, node("Cast", "z", "y", to=TensorProto.FLOAT16)), dtype=TensorProto.FLOAT16),
}
LOGIT = {
    "a single output": Head(width=1, nodes=(node("Flatten", "g", "y"),), shape=("n", 1)),
    "a single output of a convolution": Head(width=1, nodes=(node("Identity", "g", "y"),), shape=("n", 1, 1, 1)),
    "a vector": Head(
        width=1, nodes=(node("Reshape", "g to", "y"),), weights={"to": np.array([-1], np.int64)}, shape=("n",)
    ),
}
PROBABILITIES = {
    "softmax": Head(nodes=(FLAT, node("Softmax", "z", "y", axis=1))),
    "softmax of opset 11, over all axes from 1": Head(nodes=(node("Softmax", "g", "y", axis=1),), shape=("n", 3, 1, 1),
                                                      opset=11),
    "softmax of opset 11 without an axis": Head(nodes=(FLAT, node("Softmax", "z", "y")), opset=11),
    "softmax of a convolution": Head(nodes=(node("Softmax", "g", "y", axis=1),), shape=("n", 3, 1, 1)),
    "softmax and what Keras puts behind it": Head(
        nodes=(FLAT, node("Softmax", "z", "s"), node("Identity", "s", "y"))
    ),
    "softmax written out": Head(
        nodes=(
            FLAT, node("ReduceMax", "z", "m", axes=[1]), node("Sub", "z m", "d"), node("Exp", "d", "e"),
            node("ReduceSum", "e axes", "t"), node("Div", "e t", "y"),
        ),
        weights={"axes": np.array([1], np.int64)},
    ),
    "softmax times the inverse of its sum": Head(
        nodes=(
            FLAT, node("Exp", "z", "e"), node("ReduceSum", "e axes", "t"), node("Reciprocal", "t", "i"),
            node("Mul", "e i", "y"),
        ),
        weights={"axes": np.array([1], np.int64)},
    ),
    "softmax in a function": Head(nodes=(FLAT, helper.make_node("Ours", ["z"], ["y"], domain="own"))),
    "two softmaxes averaged": Head(
        nodes=(
            FLAT, node("Softmax", "z", "s"), node("Neg", "z", "n"), node("Softmax", "n", "s2"),
            node("Add", "s s2", "both"), node("Mul", "both half", "y"),
        ),
        weights={"half": np.array(0.5, np.float32)},
    ),
    "softmax in float16 at the end": Head(
        nodes=(FLAT, node("Softmax", "z", "s"), node("Cast", "s", "y", to=TensorProto.FLOAT16)),
        dtype=TensorProto.FLOAT16,
    ),
    "a sigmoid for each class": Head(nodes=(FLAT, sigmoid())),
    "a sigmoid for each class, written out": Head(
        nodes=(
            FLAT, node("Neg", "z", "n"), node("Exp", "n", "e"), node("Add", "e one", "a"), node("Div", "one a", "y"),
        ),
        weights=ONE,
    ),
}  # fmt: skip
PROBABILITY = {
    "sigmoid": Head(width=1, nodes=(FLAT, sigmoid()), shape=("n", 1)),
    "sigmoid of a convolution": Head(width=1, nodes=(node("Sigmoid", "g", "y"),), shape=("n", 1, 1, 1)),
    "sigmoid and what Keras puts behind it": Head(
        width=1, shape=None,
        nodes=(FLAT, sigmoid("s"), node("Cast", "s", "cast", to=TensorProto.FLOAT), node("Identity", "cast", "y")),
    ),
    "sigmoid by its exponential": Head(
        width=1, nodes=(FLAT, node("Exp", "z", "e"), node("Add", "one e", "a"), node("Div", "e a", "y")),
        weights=ONE, shape=("n", 1),
    ),
    "sigmoid by a hyperbolic tangent": Head(
        width=1,
        nodes=(
            FLAT, node("Mul", "z half", "u"), node("Tanh", "u", "t"), node("Mul", "t half", "w"),
            node("Add", "w half", "y"),
        ),
        weights={"half": np.array(0.5, np.float32)}, shape=("n", 1),
    ),
    "sigmoid, clipped": Head(
        width=1, nodes=(FLAT, sigmoid("s"), node("Clip", "s low high", "y")),
        weights={"low": np.array(1e-6, np.float32), "high": np.array(1 - 1e-6, np.float32)}, shape=("n", 1),
    ),
    "the second of two of a softmax": Head(
        width=2, nodes=(FLAT, node("Softmax", "z", "s"), node("Slice", "s middle ends axes", "y")), weights=AXES,
        shape=("n", 1),
    ),
    "a hard sigmoid": Head(width=1, nodes=(FLAT, node("HardSigmoid", "z", "y")), shape=("n", 1)),
}  # fmt: skip
EXPECTED: dict[str, dict[str, Head]] = {
    "logits": LOGITS, "logit": LOGIT, "probabilities": PROBABILITIES, "probability": PROBABILITY,
}  # fmt: skip


def write(
    path: Path, head: Head, *, data: Path | None = None, classes: int | None = None, batch: int | str = "n"
) -> Path:
    """A classifier of 32 pixels that ends in `head`; with `data`, its logits are fitted on data/train.

    `classes` of the folder are told apart; a single logit is for two of them.
    """
    k, v = normal(FEATURES, 3, 4, 4, scale=0.3), normal(head.width, FEATURES, 1, 1, scale=0.5)
    b = normal(head.width, scale=0.1)
    if data is not None:
        v, b = _fitted(k, head.width, data)
    body = [
        node("Conv", "x k", "c", strides=[4, 4], kernel_shape=[4, 4]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Conv", "p v b", "g", kernel_shape=[1, 1]),
    ]
    weights = {"k": k, "v": v, "b": b, **head.weights}
    shape = (
        head.shape
        if head.shape is None
        else tuple(
            batch if index == 0 and isinstance(size, str) and batch != "n" else size
            for index, size in enumerate(head.shape)
        )
    )
    output = helper.make_tensor_value_info("y", head.dtype, shape)
    if shape and isinstance(shape[0], int) and shape[0] < 1:
        output.type.tensor_type.shape.dim[0].dim_value = shape[0]
    graph = helper.make_graph(
        [*body, *head.nodes], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [output], [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", head.opset)]
    functions = []
    if any(one.domain for one in head.nodes):
        opsets.append(helper.make_opsetid("own", 1))
        inner = [
            helper.make_node("Exp", ["a"], ["e"]),
            helper.make_node("ReduceSum", ["e", "axis"], ["t"]),
            helper.make_node("Div", ["e", "t"], ["z"]),
        ]
        constant = helper.make_node("Constant", [], ["axis"], value_ints=[1])
        functions = [helper.make_function("own", "Ours", ["a"], ["z"], [constant, *inner], opsets[:1])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8), path)
    return path


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime gives, a row an image."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    return np.asarray(found, np.float32).reshape(len(images), -1)


def loaded(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Path]]:
    """Images of class folders as the classifiers take them, their classes and their files."""
    images = folders.class_folders(folder)
    preprocess = Preprocess.for_size(SIDE)
    pixels = np.concatenate(list(folders.batches(images, preprocess, 16)))
    return preprocess.normalize(pixels), np.asarray(images.labels), list(images.paths)


def _fitted(k: NDArray[np.float32], width: int, data: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    images, labels, _ = loaded(data / "train")
    patches = images.reshape(len(images), 3, SIDE // 4, 4, SIDE // 4, 4)
    features = np.maximum(np.einsum("nchiwj,fcij->nfhw", patches, k), 0).mean((2, 3)).astype(np.float64)
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / deviation
    wanted = (8.0 * (labels[:, None] > 0) - 4) if width == 1 else 4.0 * np.eye(width)[labels]
    solved = np.linalg.solve(scaled.T @ scaled + 0.3 * np.eye(FEATURES), scaled.T @ (wanted - wanted.mean(0)))
    head = solved / deviation[:, None]
    bias = wanted.mean(0) - mean @ head
    return head.T.astype(np.float32)[:, :, None, None], bias.astype(np.float32)
