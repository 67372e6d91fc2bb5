"""Small image classifiers in ONNX, made by hand, whose last layer is fitted to pictures: graphs that aren't ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hemf_export.calibration.graphs import prepare
from hemf_export.images import folders
from hemf_export.images.images import Preprocess

Nodes = list[onnx.NodeProto]
Weights = dict[str, NDArray[np.generic]]


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def classifier(
    nodes: Nodes, weights: Weights, features: int, data: Path, size: int, *, opset: int = 20
) -> onnx.ModelProto:
    """`nodes` take `x` (N, 3, size, size) to `features` (N, features); a Gemm behind them is fitted on data/train."""
    images = folders.class_folders(data / "train")
    preprocess = Preprocess.for_size(size)
    pixels = np.concatenate(list(folders.batches(images, preprocess, 8)))
    body = _model(nodes, weights, "features", features, size, opset)
    found = _run(body, preprocess.normalize(pixels)).astype(np.float64)
    mean, deviation = found.mean(0), found.std(0) + 1e-3 * np.abs(found).max() + 1e-6
    wanted = 4.0 * np.eye(len(images.classes))[list(images.labels or ())]
    scaled = (found - mean) / deviation
    solved = np.linalg.solve(scaled.T @ scaled + 0.3 * np.eye(features), scaled.T @ (wanted - wanted.mean(0)))
    head = solved / deviation[:, None]
    ends = [helper.make_node("Gemm", ["features", "head_w", "head_b"], ["logits"], name="head")]
    fitted = {"head_w": head.astype(np.float32), "head_b": (wanted.mean(0) - mean @ head).astype(np.float32)}
    return _model([*nodes, *ends], {**weights, **fitted}, "logits", len(images.classes), size, opset)


def _model(nodes: Sequence[onnx.NodeProto], weights: Weights, output: str, width: int, size: int, opset: int):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def prepared(nodes: Nodes, weights: Weights, shape=("n", 32), output=("n", 4)) -> ir.Model:
    """Nodes from `x` to `y`, as calibration takes them."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def node(operator: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """A node named like its output."""
    return helper.make_node(operator, inputs.split(), [output], name=output, **attributes)


def written_out_norm(data: Path) -> onnx.ModelProto:
    """A layer norm spelled out with Pow, of values whose mean of squares is over 65,504."""
    axis = {"axis": np.array([-1], np.int64), "pixels": np.array([1, 2], np.int64)}
    nodes = [
        node("Conv", "x k b", "conv", strides=[4, 4], kernel_shape=[4, 4]),
        node("Relu", "conv", "relu"),
        node("Transpose", "relu", "rows", perm=[0, 2, 3, 1]),
        node("MatMul", "rows wide", "large"),
        node("ReduceMean", "large axis", "mean"),
        node("Sub", "large mean", "centred"),
        node("Pow", "centred two", "squares"),
        node("ReduceMean", "squares axis", "variance"),
        node("Add", "variance epsilon", "safe"),
        node("Sqrt", "safe", "deviation"),
        node("Div", "centred deviation", "normalized"),
        node("ReduceMean", "normalized pixels", "features", keepdims=0),
    ]
    weights = {
        "k": normal(32, 3, 4, 4, scale=0.3), "b": normal(32, scale=0.1), "wide": normal(32, 32, scale=300.0),
        "two": np.array(2.0, np.float32), "epsilon": np.array(1e-6, np.float32), **axis,
    }  # fmt: skip
    return classifier(nodes, weights, 32, data, 32)


def renormalized_softmax(data: Path) -> onnx.ModelProto:
    """A softmax over 3,136 tokens that is divided by its sum over 8 slots: 0/0 in float16 for most dark tokens.

    In float32 no token's sum is below 1e-27. Below its normal numbers, 1e-38, ONNX Runtime's softmax is 0 with AVX2 and
    isn't with AVX-512 (`MlasComputeSumExpF32KernelFma3` and `…Avx512F` in MLAS).
    """
    nodes = [
        node("Reshape", "x tokens", "flat"),
        node("MatMul", "slots flat", "scores"),
        node("Softmax", "scores", "softmax", axis=-1),
        node("ReduceSum", "softmax axis", "sum"),
        node("Div", "softmax sum", "attention"),
        node("Transpose", "flat", "turned", perm=[0, 2, 1]),
        node("MatMul", "attention turned", "mixed"),
        node("Reshape", "mixed vector", "features"),
    ]
    weights = {
        "tokens": np.array([-1, 3, 3136], np.int64), "vector": np.array([-1, 24], np.int64),
        "axis": np.array([1], np.int64), "slots": np.abs(normal(8, 3, scale=10.0)) + 8,
    }  # fmt: skip
    return classifier(nodes, weights, 24, data, 56)


def depthwise_only(data: Path) -> onnx.ModelProto:
    """Nothing that int8 is used for: a depthwise convolution, and the classifier."""
    nodes = [
        node("Conv", "x k b", "first", strides=[4, 4], group=3),
        node("Relu", "first", "relu"),
        node("Flatten", "relu", "features"),
    ]
    weights = {"k": normal(3, 1, 4, 4, scale=0.3), "b": normal(3, scale=0.1)}
    return classifier(nodes, weights, 192, data, 32)


def convolutional(data: Path, *, outliers: bool = False) -> onnx.ModelProto:
    """Dense 3×3 convolutions that are most of the time of an engine.

    With `outliers`, the input of each has a channel thousands of times larger than the others.
    """
    channels = 256
    biases = [normal(channels, scale=0.1, seed=seed) for seed in range(3)]
    wide = [normal(channels, channels, 3, 3, scale=0.03, seed=seed) for seed in range(2)]
    if outliers:
        for bias, weight in zip(biases, wide, strict=False):
            bias[-1] = 5000.0
            weight[:, -1] /= 5000.0
    nodes = [
        node("Conv", "x k1 b1", "first", strides=[2, 2], kernel_shape=[4, 4], pads=[1, 1, 1, 1]),
        node("Relu", "first", "relu1"),
        node("Conv", "relu1 k2 b2", "second", pads=[1, 1, 1, 1]),
        node("Relu", "second", "relu2"),
        node("Conv", "relu2 k3 b3", "third", pads=[1, 1, 1, 1]),
        node("Relu", "third", "relu3"),
        node("GlobalAveragePool", "relu3", "pooled"),
        node("Flatten", "pooled", "features"),
    ]
    weights = {
        "k1": normal(channels, 3, 4, 4, scale=0.3), "k2": wide[0], "k3": wide[1],
        **{f"b{number}": bias for number, bias in enumerate(biases, 1)},
    }  # fmt: skip
    return classifier(nodes, weights, channels, data, 32)


def outlier_channel(data: Path, *, only: bool = False) -> onnx.ModelProto:
    """Three convolutions; the last one's input has a channel thousands of times larger than the others.

    With `only`, nearly all of the work is in the last one: the second is depthwise and the first has few channels.
    """
    channels = 16 if only else 32
    bias = normal(channels, scale=0.1)
    bias[-1] = 5000.0
    wide = normal(96, channels, 3, 3, scale=0.06, seed=3) if only else normal(32, 32, 1, 1, scale=0.2, seed=3)
    wide[:, -1] /= 5000.0
    second = normal(channels, 1 if only else channels, 3, 3, scale=0.3 if only else 0.06)
    nodes = [
        node("Conv", "x k1 b1", "first", strides=[2, 2], kernel_shape=[4, 4], pads=[1, 1, 1, 1]),
        node("Relu", "first", "relu1"),
        node("Conv", "relu1 k2 b2", "second", pads=[1, 1, 1, 1], group=channels if only else 1),
        node("Relu", "second", "relu2"),
        node("Conv", "relu2 k3 b3", "third"),
        node("Relu", "third", "relu3"),
        node("GlobalAveragePool", "relu3", "pooled"),
        node("Flatten", "pooled", "features"),
    ]
    weights = {
        "k1": normal(channels, 3, 4, 4, scale=0.3), "b1": normal(channels, scale=0.1, seed=1),
        "k2": second, "b2": bias, "k3": wide, "b3": normal(len(wide), scale=0.1, seed=2),
    }  # fmt: skip
    return classifier(nodes, weights, len(wide), data, 32)


def normalized_cnn(data: Path, *, opset: int = 13) -> onnx.ModelProto:
    """Any old classifier: convolutions with BatchNorms, one of them depthwise, at an opset that FP16 and INT8 lift."""
    nodes: Nodes = []
    weights: Weights = {}
    value, channels = "x", 3
    for index, (out, stride, group) in enumerate(((32, 2, 1), (32, 1, 32), (64, 2, 1), (64, 1, 1))):
        weights[f"k{index}"] = normal(out, channels // group, 3, 3, scale=(9 * channels / group) ** -0.5, seed=index)
        for name, low, high in (("scale", 0.5, 1.5), ("shift", -0.2, 0.2), ("mean", -0.2, 0.2), ("var", 0.5, 1.5)):
            weights[f"{name}{index}"] = np.random.default_rng(index).uniform(low, high, out).astype(np.float32)
        nodes += [
            node("Conv", f"{value} k{index}", f"conv{index}", group=group, strides=[stride] * 2, pads=[1] * 4),
            node(
                "BatchNormalization",
                f"conv{index} scale{index} shift{index} mean{index} var{index}",
                f"norm{index}",
            ),
            node("Relu", f"norm{index}", f"relu{index}"),
        ]
        value, channels = f"relu{index}", out
    nodes += [node("GlobalAveragePool", value, "pooled"), node("Flatten", "pooled", "features")]
    return classifier(nodes, weights, channels, data, 32, opset=opset)
