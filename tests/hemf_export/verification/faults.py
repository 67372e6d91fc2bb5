"""Ten faults that a conversion or a careless hand may put into a model's file, each as an edit of the ONNX graph.

The manifest is written after the fault, as if the tool that made the file had made it so: no hash gives it away.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts

Edit = Callable[[onnx.ModelProto], None]


def plant(source: Path, target: Path, edit: Edit) -> Path:
    """A copy of an ONNX file with a fault in it, and a manifest that describes it as sound."""
    model = onnx.load(source)
    edit(model)
    onnx.save(model, target)
    manifest = json.loads(artifacts.manifest_path(source).read_text())
    text = json.dumps({**manifest, "file": target.name, "sha256": artifacts.sha256(target)})
    artifacts.manifest_path(target).write_text(text)
    return target


def tensor(model: onnx.ModelProto, start: str) -> onnx.TensorProto:
    """The initializer whose name starts so."""
    return next(found for found in model.graph.initializer if found.name.startswith(start))


def changed(start: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """An edit of one initializer."""

    def edit(model: onnx.ModelProto) -> None:
        found = tensor(model, start)
        array = onnx.numpy_helper.to_array(found)
        found.CopyFrom(onnx.numpy_helper.from_array(change(array.copy()).astype(array.dtype), found.name))

    return edit


def scale(name: str, factor: float = 10) -> Edit:
    """The step of a quantized value or weight is `factor` times what it was."""
    return changed(f"{name}_scale", lambda steps: steps * factor)


def zero_weight(node: str) -> Edit:
    """The weight of a product becomes zero."""

    def edit(model: onnx.ModelProto) -> None:
        name = next(found for found in model.graph.node if found.name == node).input[1]
        changed(name, np.zeros_like)(model)

    return edit


def zero_channel(array: np.ndarray) -> np.ndarray:
    array[0] = 0
    return array


def one_nan(array: np.ndarray) -> np.ndarray:
    array.flat[0] = np.nan
    return array


def swapped_classes(model: onnx.ModelProto) -> None:
    for name in ("head.weight", "head.bias"):
        changed(name, lambda array: array[[1, 0, *range(2, len(array))]])(model)


def other_mean(model: onnx.ModelProto) -> None:
    """ImageNet's mean and deviation, of which the file's description tells nobody: scale and shift at the input."""
    ratio = 0.5 / np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
    shift = ((0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])).astype(np.float32)
    constants = [
        onnx.numpy_helper.from_array(ratio, "wrong_scale"),
        onnx.numpy_helper.from_array(shift.reshape(1, 3, 1, 1), "wrong_shift"),
    ]
    nodes = [
        onnx.helper.make_node("Mul", ["images", "wrong_scale"], ["wrong_scaled"], "wrong/mul"),
        onnx.helper.make_node("Add", ["wrong_scaled", "wrong_shift"], ["wrong_images"], "wrong/add"),
    ]
    _before_all(model, nodes, constants, "wrong_images")


def bgr(model: onnx.ModelProto) -> None:
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr_order")
    nodes = [onnx.helper.make_node("Gather", ["images", "bgr_order"], ["bgr_images"], "bgr/gather", axis=1)]
    _before_all(model, nodes, [order], "bgr_images")


def dropped_gelu(model: onnx.ModelProto) -> None:
    node = next(found for found in model.graph.node if found.op_type == "Gelu")
    node.op_type = "Identity"
    del node.attribute[:]


def epsilon(model: onnx.ModelProto) -> None:
    """PyTorch's usual 1e-5 in place of 1e-6, in every layer norm."""
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            next(found for found in node.attribute if found.name == "epsilon").f = 1e-5


def described_otherwise(model: onnx.ModelProto) -> None:
    """The graph is sound; its description tells the server to normalize with ImageNet's mean."""
    prop = next(found for found in model.metadata_props if found.key == "hemf")
    described = json.loads(prop.value)
    described["preprocess"]["mean"] = [0.485, 0.456, 0.406]
    prop.value = json.dumps(described)


def stale_batch_norms(source: Path, target: Path) -> Path:
    """A copy of a checkpoint whose running means were reset, in a file that is whole in itself."""
    saved = checkpoint.load(source)
    state = {name: torch.zeros_like(v) if name.endswith("running_mean") else v for name, v in saved.state.items()}
    checkpoint.save(dataclasses.replace(saved, state=state), target)
    return target


def _before_all(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], result: str
) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "images":
                node.input[place] = result
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])
    model.graph.initializer.extend(constants)


# Of a third of the network.
SQUARE = "local_stages.1.0.pointwise.weight"
CONVOLUTION = "local_stages.3.0.convolution.weight"
SCALED = "local_stages.2.0.pointwise.weight"
IN_FLOAT: dict[str, Edit] = {
    "zeroed channel": changed(CONVOLUTION, zero_channel),
    "swapped class order": swapped_classes,
    "wrong normalization": other_mean,
    "BGR for RGB": bgr,
    "NaN weight": changed(CONVOLUTION, one_nan),
    "transposed weight": changed(SQUARE, lambda array: array.T),
    "dropped GELU": dropped_gelu,
}
