"""Classifiers as converters write them: Keras's of tf2onnx and keras2onnx, and old TorchScript exports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hemf_export.images import folders
from hemf_export.images.images import Preprocess

SIDE, WIDTH = 32, 24
IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8}
End = Literal["logits", "softmax", "sigmoid", "sigmoid vector", "logit"]


@dataclass(frozen=True)
class Converted:
    """A file to write.

    Args:
        channels_last: whether the input is (N, H, W, 3).
        dtype: of the input: float32, normalized; or uint8, of raw pixels.
        names: of the input and the output.
        end: last layers.
        batch: fixed batch, or the name of a free one.
        opset: of the file; below 9 weights are listed as inputs.
        listed: whether weights are listed as inputs.
        external: whether weights are in a file of their own.
        classes: number of classes.
        plain: whether all operators are among those that fine-tuning takes.
    """

    channels_last: bool = False
    dtype: Literal["float32", "uint8"] = "float32"
    names: tuple[str, str] = ("input", "output")
    end: End = "logits"
    batch: int | str = "n"
    opset: int = 13
    listed: bool = False
    external: bool = False
    classes: int = 3
    plain: bool = False

    @property
    def single(self) -> bool:
        """Whether one number decides between two classes."""
        return self.end in ("sigmoid", "sigmoid vector", "logit")

    def inputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Pixels (n, H, W, 3) → what the file takes, in plain numpy."""
        if self.dtype == "uint8":
            return pixels if self.channels_last else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        values = pixels.astype(np.float32) / np.float32(127.5) - 1
        return values if self.channels_last else np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def write(self, path: Path, data: Path) -> Path:
        """Write the file, its last layer fitted on `data`/train."""
        pixels, labels, _ = loaded(data / "train")
        draw = np.random.default_rng(3)
        weights: dict[str, NDArray[np.generic]] = {
            "stem": (draw.standard_normal((16, 3, 3, 3)) * 0.3).astype(np.float32),
            "scale": (draw.random(16) + 0.5).astype(np.float32), "shift": (draw.standard_normal(16) * 0.1).astype("f"),
            "mean": (draw.standard_normal(16) * 0.1).astype("f"), "var": (draw.random(16) + 0.5).astype("f"),
            "deep": (draw.standard_normal((WIDTH, 16, 3, 3)) * 0.1).astype(np.float32),
        }  # fmt: skip
        body: list[onnx.NodeProto] = []
        padding = {"pads": [1, 1, 1, 1]} if self.plain else {"auto_pad": "SAME_UPPER"}
        last, (source, result) = self.names[0], self.names
        if self.dtype == "uint8":
            weights |= {"inverse": np.array(1 / 127.5, np.float32), "one": np.array(1, np.float32)}
            body += [
                node("Cast", [last], "cast", to=TensorProto.FLOAT), node("Mul", "cast inverse", "scaled"),
                node("Sub", "scaled one", "centred"),
            ]  # fmt: skip
            last = "centred"
        if self.channels_last:
            body.append(node("Transpose", [last], "nchw", perm=[0, 3, 1, 2]))
            last = "nchw"
        body += [
            node("Conv", [last, "stem"], "c", **padding, strides=[2, 2], kernel_shape=[3, 3]),
            node("BatchNormalization", "c scale shift mean var", "bn"),
            node("Relu", "bn", "r"),
            node("AveragePool" if self.plain else "MaxPool", "r", "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "pool deep", "d", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", "d", "r2"),
            node("GlobalAveragePool", "r2", "gap"),
            node("Flatten", "gap", "flat"),
        ]
        features = self._run([*body], weights, pixels, "flat")
        weights["head"], weights["bias"] = fitted(features, labels, 1 if self.single else self.classes)
        ending = {
            "logits": [node("Gemm", "flat head bias", result)],
            "softmax": [node("Gemm", "flat head bias", "z"), node("Softmax", "z", result, axis=1)],
            "sigmoid": [node("Gemm", "flat head bias", "z"), node("Sigmoid", "z", result)],
            "sigmoid vector": [
                node("Gemm", "flat head bias", "z"), node("Sigmoid", "z", "s"),
                node("Reshape", "s to", result),
            ],
            "logit": [node("Gemm", "flat head bias", result)],
        }[self.end]  # fmt: skip
        if self.end == "sigmoid vector":
            weights["to"] = np.array([-1], np.int64)
        model = self._model([*body, *ending], weights, result)
        assert source == model.graph.input[0].name
        if self.external:
            onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64)
        else:
            onnx.save(model, path)
        return path

    def run(self, path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file in ONNX Runtime on these pixels; a row for each image."""
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        step = self.batch if isinstance(self.batch, int) else len(pixels)
        filled = np.resize(pixels, (-(-len(pixels) // step) * step, *pixels.shape[1:]))
        rows = [
            np.asarray(session.run([self.names[1]], {self.names[0]: self.inputs(filled[at : at + step])})[0])
            for at in range(0, len(filled), step)
        ]
        return np.concatenate([row.reshape(step, -1) for row in rows])[: len(pixels)].astype(np.float32)

    def _run(
        self, nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], pixels: NDArray[np.uint8], name: str
    ) -> NDArray[np.float32]:
        free = dataclasses.replace(self, names=(self.names[0], name), end="logits", batch="n", external=False)
        model = free._model(nodes, weights, name, (None, WIDTH))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run([name], {self.names[0]: self.inputs(pixels)})[0])

    def _model(
        self, nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], result: str,
        shape: tuple[int | None, ...] | None = None,
    ) -> onnx.ModelProto:  # fmt: skip
        image = [SIDE, SIDE, 3] if self.channels_last else [3, SIDE, SIDE]
        kind = TensorProto.UINT8 if self.dtype == "uint8" else TensorProto.FLOAT
        row = () if self.end == "sigmoid vector" else (1 if self.single else self.classes,)
        given = shape or (self.batch, *row)
        tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
        listed = [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in tensors]
        graph = helper.make_graph(
            nodes, "torch-jit-export",
            [
                helper.make_tensor_value_info(self.names[0], kind, [self.batch, *image]),
                *(listed if self.listed or self.opset < 9 else []),
            ],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, given)], tensors,
        )  # fmt: skip
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSIONS[self.opset]
        )
        onnx.checker.check_model(model)
        return model


def node(kind: str, inputs: str | list[str], output: str, **attributes: object) -> onnx.NodeProto:
    """A node without a name, as many converters leave it; inputs whose names have blanks are a list."""
    return helper.make_node(kind, inputs.split() if isinstance(inputs, str) else inputs, [output], **attributes)


def loaded(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Path]]:
    """Pixels of class folders, (n, H, W, 3), their classes and their files."""
    images = folders.class_folders(folder)
    pixels = np.concatenate(list(folders.batches(images, Preprocess.for_size(SIDE), 16)))
    return pixels, np.asarray(images.labels), list(images.paths)


def fitted(
    features: NDArray[np.float32], labels: NDArray[np.int64], width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (features, width) and bias of a linear classifier; of width 1 it tells the first class from others."""
    wide = features.astype(np.float64)
    mean, deviation = wide.mean(0), wide.std(0) + 1e-6
    scaled = (wide - mean) / deviation
    wanted = (8.0 * (labels[:, None] > 0) - 4) if width == 1 else 4.0 * np.eye(width)[labels]
    solved = np.linalg.solve(scaled.T @ scaled + 0.3 * np.eye(wide.shape[1]), scaled.T @ (wanted - wanted.mean(0)))
    head = solved / deviation[:, None]
    return head.astype(np.float32), (wanted.mean(0) - mean @ head).astype(np.float32)
