"""Fine-tuning of an INT8 file: the file, its checkpoint and labelled images → a graph with trained weights, proven.

The graph, its scales and the choice of INT8 layers stay as quantization made them; weights, biases and norms change. So
the result is no longer the checkpoint in INT8, but a model of its own near it: its metrics beside the checkpoint's show
how near.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export.calibration import graph_types, image_set
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.graphs import infer
from hemf_export.calibration.image_set import ImageSet, Selection
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import BATCH
from hemf_export.calibration.trials import logits as logits_of
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.export import graph_writing
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.progress import SILENT, Progress
from hemf_export.finetuning import training
from hemf_export.finetuning.network import GraphNetwork, trained_initializers
from hemf_export.finetuning.recipe import FineTuning
from hemf_export.finetuning.training import FineTuned
from hemf_export.metrics.comparison import Comparison, compare
from hemf_export.models import discover, file_kinds, graph_source, onnx_model, plausibility, predictor, proof
from hemf_export.models.description import Description, Precision
from hemf_export.models.model_file import CheckpointFile, ModelFile, OnnxFile
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.precision import earlier_file
from hemf_export.precision.earlier_file import Recipe
from hemf_export.train import hardware
from hemf_export.train.distillation import Teacher
from hemf_export.train.float32 import exact_float32

MAX_DEVIATION = (
    0.05  # share of the largest logit by which PyTorch and ONNX Runtime may differ, when a value rounds differently
)
_KEPT = ("int8", "conversion")  # fields copied from the source file's manifest


@dataclass(frozen=True)
class Request:
    """Request for a fine-tuned file: the file, the images, and the recipe.

    Args:
        source: an INT8 file made by quantization.
        data: labelled images: a data folder (train/ to train on, val/ to evaluate on; test/ is not used), or class
            folders, which are split.
        reference: the model it was made from, a checkpoint or another exporter's float32 ONNX file; None for the one
            beside it.
        output: the file to write; None for MODEL.qat.int8.onnx.
        held_out: other images to evaluate on; None for those of `data`.
        recipe: hyperparameters.
        budget: the accepted loss of accuracy or agreement; None for no bound.
        device: auto, cpu or cuda.
        workers: loader processes.
        reading: how the checkpoint is read; by default as recorded in the file when it was exported.
        force: replace a file that was made with other options.
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
    reading: Reading = PLAIN
    force: bool = False


@dataclass(frozen=True)
class FineTunedFile:
    """A fine-tuned file and its evaluation.

    Args:
        path: the ONNX file; its manifest lies beside it.
        before: comparison of the source file with the checkpoint on the held-out images.
        after: comparison of this file with the checkpoint on the same images.
        tuned: the result of training, with every epoch's metrics.
        manifest: the manifest as written.
        notes: notes for the user.
    """

    path: Path
    before: Comparison
    after: Comparison
    tuned: FineTuned
    manifest: dict[str, Any]
    notes: tuple[str, ...]


@locks.owning(lambda request, *_, **__: _outputs(request))
def make(request: Request, progress: Progress = SILENT) -> FineTunedFile:
    """Fine-tune `request.source` and write the result.

    Raises:
        BadInputError: the file, the checkpoint or the images can't be used.
        WouldReplaceError: the output exists, and was made with other options.
        CheckFailedError: no epoch was better than the file itself, or the budget is missed; nothing is written.
        MissingCapabilityError: CUDA was requested and is not available.
    """
    device = hardware.choose(request.device).device
    description, manifest = _read(request.source)
    path = request.output or default_output(request.source, description.precision)
    artifacts.check_outputs((path,), filter(None, (request.source, request.reference)))
    teacher = _teacher(request.source, description, request.reference, device, request.reading)
    images = _images(request, description, progress)
    recipe = _recipe(request, images)
    if not request.force:
        earlier_file.require_replaceable(path, recipe)
    model = ir.load(request.source)
    infer(model)
    trained = trained_initializers(model.graph)
    network = GraphNetwork(model, trained, description.output, channels_last=description.input.channels_last).to(device)
    held_out = images.held_out
    warnings = _plausibility_warnings(teacher, held_out, device, progress)
    result = training.finetune(
        network, teacher, images.calibration.images, held_out.images, description.preprocess, request.recipe, progress,
        device, request.workers,
    )  # fmt: skip
    before = compare(result.before, result.reference, held_out.labels)
    if not result.epoch:
        raise CheckFailedError(
            f"No epoch was better than {request.source.name} itself on {len(held_out)} held-out images; "
            "nothing was written.",
            "Keep the file as it is, or try another `learning_rate` or more `epochs`.",
            {"before": before.to_dict(), "epochs": list(result.lines)},
        )
    network.store()
    logits = _prove(model, description, held_out, progress)
    _require_same(logits, result.logits, path)
    after = compare(logits, result.reference, held_out.labels)
    if request.budget is not None and (missed := request.budget.missed(after)):
        raise CheckFailedError(
            f"{request.source.name}, fine-tuned: {'; '.join(missed)} ({len(held_out)} held-out images).",
            "No file was kept. Train for more `epochs`, or allow more.",
            {"before": before.to_dict(), "figures": after.to_dict(), "epochs": list(result.lines)},
        )
    origin = proof.of_manifest(manifest)
    evidence = Proof(
        ImageRecord.from_dict(held_out.to_dict()),
        Figures.from_dict(after.to_dict()),
        float16_emulated=description.precision != "int8-cpu",
        calibration_images=None if origin is None else origin.calibration_images,
        budget=request.budget,
    )
    fields = {
        earlier_file.KEY: recipe.for_manifest(),
        "fine_tuning": {
            "recipe": request.recipe.to_dict(),
            "device": device,
            "training_images": images.calibration.to_dict(),
            "best_epoch": result.epoch,
            "epochs": list(result.lines),
            "before": before.to_dict(),
        },
        **{name: manifest[name] for name in _KEPT if name in manifest},
    }
    proofs = held_out.batches(BATCH), logits, result.reference
    manifest = _write(path, recipe, model, description, evidence, fields, proofs)
    return FineTunedFile(path, before, after, result, manifest, (*images.notes, *warnings))


def _outputs(request: Request) -> list[Path]:
    """The paths that the result may have, as far as they are known before the file is read."""
    if request.output is not None:
        return [request.output]
    kinds: tuple[Precision, ...] = ("int8", "int8-cpu")
    return [default_output(request.source, kind) for kind in kinds]


def _recipe(request: Request, selection: Selection) -> Recipe:
    """Everything that the file and its proof depend on."""
    options = {
        **request.recipe.to_dict(),
        "budget": None if request.budget is None else request.budget.to_dict(),
        "training_images": selection.calibration.to_dict(),
        "held_out_images": selection.held_out.to_dict(),
    }
    return Recipe(request.source.name, artifacts.sha256(request.source), options)


def _images(request: Request, description: Description, progress: Progress) -> Selection:
    with progress.task("Choosing images"):
        selection = image_set.select(
            request.data, description.input, description.classes, held_out=request.held_out, count=sys.maxsize
        )
    for images in (selection.calibration.images, selection.held_out.images):
        if images.labels is None:
            raise BadInputError(
                f"{images.root} has no class folders: fine-tuning learns from labels.",
                "Put each class's images into a folder of its own.",
            )
        predictor.require_readable(images, progress)
    return selection


@exact_float32()
def _plausibility_warnings(
    teacher: Callable[[Tensor], Tensor], held_out: ImageSet, device: str, progress: Progress
) -> tuple[str, ...]:
    """Warnings about the float network's predictions on some held-out images, noted before training starts."""
    # Teachers take (n, 3, size, size), whatever the order of the graph's axes.
    images = dataclasses.replace(
        held_out.whole(plausibility.IMAGES), input=dataclasses.replace(held_out.input, layout=None)
    )

    @torch.no_grad()
    def infer(batch: NDArray[np.generic]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = teacher(torch.from_numpy(batch).to(device)).float().cpu().numpy()
        return scores

    scores = np.concatenate([infer(batch) for batch in images.batches(BATCH)])
    warnings = tuple(
        f"The float network: {text}" for text in plausibility.look(images.images, scores, images.input, infer, BATCH)
    )
    for text in warnings:
        progress.note(text)
    return warnings


def _prove(model: ir.Model, description: Description, held_out: ImageSet, progress: Progress) -> NDArray[np.float32]:
    """Compute the held-out logits of the graph as it will be shipped, in ONNX Runtime."""
    graph = model if description.precision == "int8-cpu" else emulate(model)
    with progress.task("Proving in ONNX Runtime"):
        return logits_of(graph, held_out, progress, output=description.output)


def _require_same(logits: NDArray[np.float32], trained: NDArray[np.float32], path: Path) -> None:
    """Check that the graph in ONNX Runtime computes what was trained in PyTorch.

    Raises:
        CheckFailedError: the logits differ by more than MAX_DEVIATION.
    """
    comparison = compare(logits, trained)
    difference, bound = comparison.logit_difference.max, MAX_DEVIATION * max(1.0, comparison.largest_logit)
    if not difference <= bound:
        raise CheckFailedError(
            f"{path.name} in ONNX Runtime differs by {difference:.3g} from what was trained, bound {bound:.3g}.",
            "Nothing was written.",
        )


def _write(
    path: Path,
    recipe: Recipe,
    model: ir.Model,
    source: Description,
    evidence: Proof,
    fields: dict[str, Any],
    proofs: tuple[Iterator[NDArray[np.generic]], NDArray[np.float32], NDArray[np.float32]],
) -> dict[str, Any]:
    """Write the graph and its manifest.

    Args:
        path: the file.
        recipe: source and options, for the manifest.
        model: the trained graph.
        source: description of the source file.
        evidence: the proof, without the check of the written file.
        fields: further fields of the manifest.
        proofs: the held-out images as input batches, the graph's logits, and the reference's logits.

    Returns:
        The manifest.
    """
    description = dataclasses.replace(source, versions=artifacts.versions())
    onnx_model.describe(model, description)
    with artifacts.atomic_path(path) as temporary:
        graph_writing.save(model, temporary)
        types = graph_types.count_types(ir.load(temporary))
        plain = graph_writing.check_written(temporary, path.name, *proofs, source.output)
    shown = dataclasses.replace(evidence, file_as_written=plain).to_dict()
    parent = {"parent": recipe.parent, "parent_sha256": recipe.parent_sha256}
    own = {"kind": "onnx", **parent, **description.to_dict(), "types": types, proof.KEY: shown, **fields}
    return artifacts.write_manifest(path, own)


def _read(source: Path) -> tuple[Description, dict[str, Any]]:
    """Read an INT8 file's description and manifest.

    Raises:
        BadInputError: it has another precision, no manifest, or an input that can't be trained on.
    """
    _, description = OnnxFile.open(source).read_ours()
    if description.precision not in ("int8", "int8-cpu"):
        raise BadInputError(
            f"{source} is {description.precision}: only INT8 files can be fine-tuned.",
            "Make an INT8 file first: `quantize(FILE, precision='int8', images=DATA)`.",
        )
    manifest = artifacts.read_manifest(source)
    if manifest is None:
        raise BadInputError(
            f"{source} has no manifest, which says how it was made.", "Make the file again: `quantize()`."
        )
    if description.output.of_probabilities:
        raise BadInputError(
            f"{source} gives {description.output.plural}; fine-tuning trains on logits.",
            "Calibrate a float32 file that ends before its softmax or sigmoid, and fine-tune that.",
        )
    if description.input_type != "float32" or description.batch is not None:
        what = "raw pixels" if description.input_type != "float32" else f"batches of {description.batch} alone"
        raise BadInputError(
            f"{source} takes {what}; fine-tuning needs normalized input and any batch.",
            "Export without `input` and `batch`, and calibrate that file.",
        )
    return description, manifest


def default_output(source: Path, precision: Precision) -> Path:
    """The default output: `best.int8.onnx` → `best.qat.int8.onnx`."""
    ending = f".{precision}.onnx"
    stem = source.name[: -len(ending)] if source.name.lower().endswith(ending) else file_kinds.stem(source)
    return source.with_name(f"{stem}.qat{ending}")


class OriginTeacher:
    """A teacher that runs another exporter's original float32 ONNX file in ONNX Runtime.

    Args:
        path: the file.
        output: what its output holds, such as logits.
        channels_last: whether its input is (n, size, size, 3).

    Raises:
        BadInputError: ONNX Runtime can't run it.
    """

    def __init__(self, path: Path, output: ModelOutput, *, channels_last: bool = False) -> None:
        self._session, self._channels_last = Session(path, output=output), channels_last

    def __call__(self, images: Tensor) -> Tensor:
        """Normalized images (n, 3, size, size) → logits (n, classes), on the images' device."""
        batch = images.permute(0, 2, 3, 1) if self._channels_last else images
        return torch.from_numpy(self._session.logits(batch.float().contiguous().cpu().numpy())).to(images.device)


def _teacher(
    source: Path, description: Description, reference: Path | None, device: str, reading: Reading = PLAIN
) -> Callable[[Tensor], Tensor]:
    """Load the model that the file was made from as a teacher: a checkpoint, or another exporter's ONNX file.

    Args:
        source: the INT8 file.
        description: its description, whose class names the teacher gets.
        reference: the model; None for the one beside `source`.
        device: the teacher's device.
        reading: how the checkpoint is read; by default as recorded in the file when it was exported.

    Raises:
        BadInputError: there is no such model, or the file was made from another one.
    """
    path = reference or _origin_of(source, description)
    file = ModelFile.open(path)
    if isinstance(file, OnnxFile) and not file.is_ours:
        graph_source.read_origin(path, (description,))
        return OriginTeacher(path, description.output, channels_last=description.input.channels_last)
    saved = CheckpointFile.open(
        path, reading=reading.or_recorded(description.reading),
        hint="Name what the file was made from: `reference=FILE`.",
    ).load()  # fmt: skip
    if saved.sha256 != description.checkpoint_sha256:
        raise BadInputError(
            f"{path} is not the checkpoint that the file was made from: SHA-256 {saved.sha256[:16]}, expected "
            f"{description.checkpoint_sha256[:16]}.",
            "Name that one: `reference=CKPT`.",
        )
    named = dataclasses.replace(saved, classes=description.classes)
    return Teacher(named, description.classes, description.preprocess, device)


def _origin_of(source: Path, description: Description) -> Path:
    origin = discover.origin_of(source.parent, description.checkpoint_sha256)
    if origin is None:
        raise BadInputError(
            f"The checkpoint or ONNX file that {source} was made from doesn't lie beside it.",
            "Name it: `reference=FILE`.",
        )
    return origin.path
