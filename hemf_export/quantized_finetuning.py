"""INT8 file + its checkpoint + labelled images → the same graph with weights trained for INT8, proven again.

The graph, its scales and what is in INT8 stay as `calibrate` made them; weights, biases and norms change. So the result
is no longer the checkpoint's arithmetic in INT8 but a model of its own, near it: its figures beside the checkpoint's
say how near.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration import graph_types, selection
from calibration.agreement import Comparison, compare
from calibration.budget import Budget
from calibration.emulation import emulate
from calibration.image_set import ImageSet
from calibration.products import is_signed_permutation
from calibration.selection import Selection
from calibration.trials import logits as logits_of
from hemf import artifacts, checkpoint
from hemf.errors import BadInputError, CheckFailedError
from hemf_export import discover, onnx_file, predictor
from hemf_export.onnx_file import Description
from train import distillation, finetuning, hardware
from train.distillation import Teacher
from train.finetuning import FineTuned
from train.finetuning_recipe import FineTuning
from train.graph_network import GraphNetwork

MAX_DEVIATION = 0.05  # of the largest logit: what PyTorch and ONNX Runtime may differ by where a step flips
_KEPT = ("calibration_images", "int8", "conversion")  # of the manifest of the file that it is made from
# Operator → inputs that are weights, biases, or scales and shifts of a norm.
_TRAINED = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "LayerNormalization": (1, 2)}


class Listener(finetuning.Listener, Protocol):
    """Also hears of what comes before and after the epochs."""

    def phase(self, text: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Request:
    """What to fine-tune; see `hemf-export finetune --help`.

    Args:
        source: an INT8 file of `calibrate`.
        data: labelled images: a data folder (trains on train/, judges by val/; test/ is left alone), or class folders,
            which are divided.
        reference: the checkpoint; None for the one beside the file.
        output: None for MODEL.qat.int8.onnx.
        held_out: other images to judge by.
        recipe: how.
        budget: what may be lost; None for no bound.
        device: auto, cpu or cuda.
        workers: loader processes.
    """

    source: Path
    data: Path
    reference: Path | None = None
    output: Path | None = None
    held_out: Path | None = None
    recipe: FineTuning = field(default_factory=FineTuning)
    budget: Budget | None = None
    device: str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class Made:
    """A finished file and what is known of it.

    Args:
        path: of the ONNX file; its manifest lies beside it.
        before: the file that it was made from beside the checkpoint, on the held-out images.
        after: the same of this file.
        tuned: every epoch's figures.
        manifest: as written.
        notes: what a user should know.
    """

    path: Path
    before: Comparison
    after: Comparison
    tuned: FineTuned
    manifest: dict[str, Any]
    notes: tuple[str, ...]


def make(request: Request, listener: Listener) -> Made:
    """Fine-tune `request.source` and write the result.

    Raises:
        BadInputError: the file, the checkpoint or the images.
        CheckFailedError: no epoch was better than the file itself, or the budget is missed; nothing is left behind.
        MissingCapabilityError: CUDA asked for and not there.
    """
    device = hardware.choose(request.device).device
    described, manifest = _read(request.source)
    path = request.output or _default_output(request.source, described)
    artifacts.check_writable(path)
    artifacts.check_distinct(request.source, path)
    reference = request.reference or _checkpoint_of(request.source, described)
    chosen = _images(request, described, listener)
    teacher = _teacher(reference, described, device)
    model = ir.load(request.source)
    common.ShapeInferencePass()(model)
    network = GraphNetwork(model, trained_initializers(model.graph)).to(device)
    judges = chosen.held_out
    tuned = finetuning.finetune(
        network, teacher, chosen.calibration.images, judges.images, described.preprocess, request.recipe, listener,
        device, request.workers,
    )  # fmt: skip
    before = compare(tuned.before, tuned.reference, judges.labels)
    if not tuned.epoch:
        raise CheckFailedError(
            f"No epoch was better than {request.source.name} itself on {len(judges)} held-out images; "
            "nothing was written.",
            "Keep the file as it is, or try another --learning-rate or more --epochs.",
            {"before": before.to_dict(), "epochs": list(tuned.lines)},
        )
    network.store()
    found = _prove(model, described, judges, listener)
    _require_same(found, tuned.logits, path)
    after = compare(found, tuned.reference, judges.labels)
    if request.budget is not None and (missed := request.budget.missed(after)):
        raise CheckFailedError(
            f"{request.source.name}, fine-tuned: {'; '.join(missed)} ({len(judges)} held-out images).",
            "No file was kept. Train for more --epochs, or allow more.",
            {"before": before.to_dict(), "figures": after.to_dict(), "epochs": list(tuned.lines)},
        )
    fields = {
        "budget": None if request.budget is None else request.budget.to_dict(),
        "figures": after.to_dict(),
        "fine_tuning": {
            "recipe": request.recipe.to_dict(),
            "device": device,
            "training_images": chosen.calibration.to_dict(),
            "best_epoch": tuned.epoch,
            "epochs": list(tuned.lines),
            "before": before.to_dict(),
        },
        "held_out_images": judges.to_dict(),
        **{name: manifest[name] for name in _KEPT if name in manifest},
    }
    written = _write(path, request.source, model, described, fields)
    return Made(path, before, after, tuned, written, chosen.notes)


def trained_initializers(graph: ir.Graph) -> Collection[str]:
    """Names of the initializers that are weights of a quantized graph: of products, biases and norms.

    Tables of positions are none, nor is a product that only moves values and changes signs.
    """
    found: dict[str, None] = {}
    for node in graph:
        for place in _TRAINED.get(node.op_type, ()):
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


def _read(source: Path) -> tuple[Description, dict[str, Any]]:
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
    if described.input_type != "float32" or described.batch is not None:
        what = "raw pixels" if described.input_type != "float32" else f"batches of {described.batch} alone"
        raise BadInputError(
            f"{source} takes {what}; fine-tuning needs normalized input and any batch.",
            "Export without --input and --batch, and calibrate that file.",
        )
    return described, manifest


def _default_output(source: Path, described: Description) -> Path:
    ending = f".{described.precision}.onnx"
    stem = source.name.removesuffix(ending) if source.name.endswith(ending) else source.stem
    return source.with_name(f"{stem}.qat{ending}")


def _checkpoint_of(source: Path, described: Description) -> Path:
    found = discover.checkpoint_of(source.parent, described.checkpoint_sha256)
    if found is None:
        raise BadInputError(
            f"The checkpoint that {source} was made from doesn't lie beside it.", "Name it: --reference CKPT."
        )
    return found


def _teacher(path: Path, described: Description, device: str) -> Teacher:
    """The float network, under the file's names of the classes: where it has none, they were given at its export."""
    saved = checkpoint.load(path)
    if saved.sha256 != described.checkpoint_sha256:
        raise BadInputError(
            f"{path} is not the checkpoint that the file was made from: SHA-256 {saved.sha256[:16]}, expected "
            f"{described.checkpoint_sha256[:16]}.",
            "Name that one: --reference CKPT.",
        )
    named = dataclasses.replace(saved, classes=described.classes)
    return distillation.Teacher(named, described.classes, described.preprocess, device)


def _images(request: Request, described: Description, listener: Listener) -> Selection:
    listener.phase("choosing images", 0, 1)
    chosen = selection.select(
        request.data, described.preprocess, described.classes, held_out=request.held_out, count=sys.maxsize
    )
    for images in (chosen.calibration.images, chosen.held_out.images):
        if images.labels is None:
            raise BadInputError(f"{images.root} has no class folders: fine-tuning learns from labels.")
        predictor.require_readable(images, listener.phase)
    return chosen


def _prove(model: ir.Model, described: Description, judges: ImageSet, listener: Listener) -> NDArray[np.float32]:
    """The held-out logits of the graph as it is shipped, in ONNX Runtime."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        listener.phase("proving in ONNX Runtime", done, len(judges))

    return logits_of(model if described.precision == "int8-cpu" else emulate(model), judges, progress)


def _require_same(found: NDArray[np.float32], trained: NDArray[np.float32], path: Path) -> None:
    """The graph must compute what was trained.

    Raises:
        CheckFailedError: it doesn't.
    """
    difference = float(np.abs(found - trained).max())
    bound = MAX_DEVIATION * max(1.0, float(np.abs(trained).max()))
    if not difference <= bound:
        raise CheckFailedError(
            f"{path.name} in ONNX Runtime differs by {difference:.3g} from what was trained, bound {bound:.3g}.",
            "Nothing was written.",
        )


def _write(path: Path, source: Path, model: ir.Model, described: Description, fields: dict[str, Any]) -> dict[str, Any]:
    description = dataclasses.replace(described, versions=artifacts.versions())
    onnx_file.describe(model, description)
    with artifacts.atomic_path(path) as temporary:
        ir.save(model, temporary)
        types = graph_types.count_types(ir.load(temporary))
    parent = {"parent": source.name, "parent_sha256": artifacts.sha256(source)}
    return artifacts.write_manifest(path, {"kind": "onnx", **parent, **description.to_dict(), "types": types, **fields})
