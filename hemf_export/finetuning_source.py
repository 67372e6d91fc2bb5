"""What fine-tuning starts from: an INT8 file of `calibrate`, its checkpoint, and which of its numbers are weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from calibration import forms
from calibration.products import is_signed_permutation
from calibration.session import Session
from hemf import artifacts, checkpoint
from hemf.errors import BadInputError
from hemf.model_output import ModelOutput
from hemf.reading import PLAIN, Reading
from hemf_export import discover, graph_source, model_kind, onnx_file
from hemf_export.description import Description, Precision
from train.distillation import Teacher

# Operator → inputs that are weights, biases, or scales and shifts of a norm.
_TRAINED = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "LayerNormalization": (1, 2)}


def read(source: Path) -> tuple[Description, dict[str, Any]]:
    """What an INT8 file says of itself, and its manifest.

    Raises:
        BadInputError: another precision, no manifest, or an input that can't be trained on.
    """
    _, described = onnx_file.read(source)
    if described.precision not in ("int8", "int8-cpu"):
        raise BadInputError(
            f"{source} is {described.precision}: there is no INT8 to train for.",
            "Make an INT8 file first: hemf-export calibrate FILE --precision int8 --images DATA.",
        )
    manifest = artifacts.read_manifest(source)
    if manifest is None:
        raise BadInputError(
            f"{source} has no manifest: nothing tells how it was made.", "Make it again: hemf-export calibrate."
        )
    if described.output.of_probabilities:
        raise BadInputError(
            f"{source} gives {described.output.plural}; fine-tuning trains on logits.",
            "Calibrate a float32 file that ends before its softmax or sigmoid, and fine-tune that.",
        )
    if described.input_type != "float32" or described.batch is not None:
        what = "raw pixels" if described.input_type != "float32" else f"batches of {described.batch} alone"
        raise BadInputError(
            f"{source} takes {what}; fine-tuning needs normalized input and any batch.",
            "Export without --input and --batch, and calibrate that file.",
        )
    return described, manifest


def default_output(source: Path, precision: Precision) -> Path:
    """`best.int8.onnx` → `best.qat.int8.onnx`."""
    ending = f".{precision}.onnx"
    stem = source.name[: -len(ending)] if source.name.lower().endswith(ending) else model_kind.stem(source)
    return source.with_name(f"{stem}.qat{ending}")


class OriginTeacher:
    """The float32 ONNX file that another's model was made from, in ONNX Runtime as it came.

    Args:
        path: of the file.
        output: what its numbers are.

    Raises:
        BadInputError: ONNX Runtime doesn't take it.
    """

    def __init__(self, path: Path, output: ModelOutput) -> None:
        self._session = Session(path, output=output)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, size, size), normalized → logits (n, classes), where the images are."""
        return torch.from_numpy(self._session.logits(images.float().cpu().numpy())).to(images.device)


def teacher(
    source: Path, described: Description, reference: Path | None, device: str, reading: Reading = PLAIN
) -> Callable[[Tensor], Tensor]:
    """What the file was made from, under the file's names of the classes: a checkpoint, or another's ONNX file.

    Args:
        source: the INT8 file.
        described: what it says of itself.
        reference: what it was made from; None for the one beside it.
        device: that it computes on.
        reading: how the checkpoint is read; by default as the file says it was when it was exported.

    Raises:
        BadInputError: nothing to learn from, or another than the file was made from.
    """
    path = reference or _origin_of(source, described)
    kind = model_kind.kind_of(path)
    if kind == "onnx" and not onnx_file.is_ours(path):
        graph_source.read_origin(path, (described,))
        return OriginTeacher(path, described.output)
    model_kind.require(path, "checkpoint", "Name what the file was made from: --reference FILE.")
    saved = checkpoint.load(path, reading=described.reading if reading == PLAIN else reading)
    if saved.sha256 != described.checkpoint_sha256:
        raise BadInputError(
            f"{path} is not the checkpoint that the file was made from: SHA-256 {saved.sha256[:16]}, expected "
            f"{described.checkpoint_sha256[:16]}.",
            "Name that one: --reference CKPT.",
        )
    named = dataclasses.replace(saved, classes=described.classes)
    return Teacher(named, described.classes, described.preprocess, device)


def trained_initializers(graph: ir.Graph) -> Collection[str]:
    """Names of the initializers that are weights of a quantized graph: of products, biases and norms.

    Tables of positions are none, nor is a product that only moves values and changes signs.
    """
    found: dict[str, None] = {}
    for node in graph:
        places = forms.weight_inputs(node)
        for place in _TRAINED.get(node.op_type, ()) if places is None else places:
            value = node.inputs[place] if place < len(node.inputs) else None
            source = None if value is None else value.producer()
            if source is not None and source.op_type == "DequantizeLinear":
                value = source.inputs[0]
            if value is None or value.const_value is None:
                continue
            array = value.const_value.numpy()
            if array.ndim < 2 or not is_signed_permutation(array):
                found[str(value.name)] = None
    return found


def _origin_of(source: Path, described: Description) -> Path:
    found = discover.origin_of(source.parent, described.checkpoint_sha256)
    if found is None:
        raise BadInputError(
            f"The checkpoint or ONNX file that {source} was made from doesn't lie beside it.",
            "Name it: --reference FILE.",
        )
    return found
