"""INT8 file + its checkpoint + labelled images → the same graph with weights trained for INT8, proven again.

The graph, its scales and what is in INT8 stay as `calibrate` made them; weights, biases and norms change. So the result
is no longer the checkpoint's arithmetic in INT8 but a model of its own, near it: its figures beside the checkpoint's
say how near.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export.calibration import forms, graph_types, image_set
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.graphs import infer
from hemf_export.calibration.image_set import ImageSet, Selection
from hemf_export.calibration.products import is_signed_permutation
from hemf_export.calibration.session import Session
from hemf_export.calibration.trials import BATCH
from hemf_export.calibration.trials import logits as logits_of
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.export import graph_writing, written
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.progress import SILENT, Progress
from hemf_export.metrics.comparison import Comparison, compare
from hemf_export.models import discover, graph_source, model_file, onnx_file, plausibility, predictor, proof
from hemf_export.models.description import Description, Precision
from hemf_export.models.model_file import CheckpointFile, ModelFile
from hemf_export.models.onnx_file import OnnxFile
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.precision import earlier_file
from hemf_export.precision.earlier_file import Recipe
from hemf_export.train import finetuning, hardware
from hemf_export.train.distillation import Teacher
from hemf_export.train.finetuning import FineTuned
from hemf_export.train.finetuning_recipe import FineTuning
from hemf_export.train.graph_network import GraphNetwork

MAX_DEVIATION = 0.05  # of the largest logit: what PyTorch and ONNX Runtime may differ by where a step flips
_KEPT = ("int8", "conversion")  # of the manifest of the file that it is made from
# Operator → inputs that are weights, biases, or scales and shifts of a norm.
_TRAINED = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "LayerNormalization": (1, 2)}


@dataclass(frozen=True)
class Request:
    """What to fine-tune.

    Args:
        source: an INT8 file of `calibrate`.
        data: labelled images: a data folder (trains on train/, judges by val/; test/ is left alone), or class folders,
            which are divided.
        reference: what it was made from, a checkpoint or another's float32 ONNX file; None for the one beside it.
        output: None for MODEL.qat.int8.onnx.
        held_out: other images to judge by.
        recipe: how.
        budget: what may be lost; None for no bound.
        device: auto, cpu or cuda.
        workers: loader processes.
        reading: how the checkpoint is read; by default as the file says it was when it was exported.
        force: replace a file that was made otherwise.
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


@locks.owning(lambda request, *_, **__: _outputs(request))
def make(request: Request, progress: Progress = SILENT) -> FineTunedFile:
    """Fine-tune `request.source` and write the result.

    Raises:
        BadInputError: the file, the checkpoint or the images.
        WouldReplaceError: a file that was made otherwise lies there.
        CheckFailedError: no epoch was better than the file itself, or the budget is missed; nothing is left behind.
        MissingCapabilityError: CUDA asked for and not there.
    """
    device = hardware.choose(request.device).device
    described, manifest = _read(request.source)
    path = request.output or default_output(request.source, described.precision)
    artifacts.check_outputs((path,), filter(None, (request.source, request.reference)))
    teacher = _teacher(request.source, described, request.reference, device, request.reading)
    chosen = _images(request, described, progress)
    recipe = _recipe(request, chosen)
    if not request.force:
        earlier_file.require_replaceable(path, recipe)
    model = ir.load(request.source)
    infer(model)
    trained = trained_initializers(model.graph)
    network = GraphNetwork(model, trained, described.output).to(device)
    judges = chosen.held_out
    doubts = _doubts(teacher, judges, device, progress)
    tuned = finetuning.finetune(
        network, teacher, chosen.calibration.images, judges.images, described.preprocess, request.recipe, progress,
        device, request.workers,
    )  # fmt: skip
    before = compare(tuned.before, tuned.reference, judges.labels)
    if not tuned.epoch:
        raise CheckFailedError(
            f"No epoch was better than {request.source.name} itself on {len(judges)} held-out images; "
            "nothing was written.",
            "Keep the file as it is, or try another `learning_rate` or more `epochs`.",
            {"before": before.to_dict(), "epochs": list(tuned.lines)},
        )
    network.store()
    found = _prove(model, described, judges, progress)
    _require_same(found, tuned.logits, path)
    after = compare(found, tuned.reference, judges.labels)
    if request.budget is not None and (missed := request.budget.missed(after)):
        raise CheckFailedError(
            f"{request.source.name}, fine-tuned: {'; '.join(missed)} ({len(judges)} held-out images).",
            "No file was kept. Train for more `epochs`, or allow more.",
            {"before": before.to_dict(), "figures": after.to_dict(), "epochs": list(tuned.lines)},
        )
    origin = proof.of_manifest(manifest)
    evidence = Proof(
        ImageRecord.from_dict(judges.to_dict()),
        Figures.from_dict(after.to_dict()),
        float16_emulated=described.precision != "int8-cpu",
        calibration_images=None if origin is None else origin.calibration_images,
        budget=request.budget,
    )
    fields = {
        earlier_file.KEY: recipe.for_manifest(),
        "fine_tuning": {
            "recipe": request.recipe.to_dict(),
            "device": device,
            "training_images": chosen.calibration.to_dict(),
            "best_epoch": tuned.epoch,
            "epochs": list(tuned.lines),
            "before": before.to_dict(),
        },
        **{name: manifest[name] for name in _KEPT if name in manifest},
    }
    proofs = judges.batches(BATCH), found, tuned.reference
    manifest = _write(path, recipe, model, described, evidence, fields, proofs)
    return FineTunedFile(path, before, after, tuned, manifest, (*chosen.notes, *doubts))


def _outputs(request: Request) -> list[Path]:
    """Where the result will lie, as far as that is known before the file is read."""
    if request.output is not None:
        return [request.output]
    kinds: tuple[Precision, ...] = ("int8", "int8-cpu")
    return [default_output(request.source, kind) for kind in kinds]


def _recipe(request: Request, chosen: Selection) -> Recipe:
    """All that changes the file or its proof."""
    options = {
        **request.recipe.to_dict(),
        "budget": None if request.budget is None else request.budget.to_dict(),
        "training_images": chosen.calibration.to_dict(),
        "held_out_images": chosen.held_out.to_dict(),
    }
    return Recipe(request.source.name, artifacts.sha256(request.source), options)


def _images(request: Request, described: Description, progress: Progress) -> Selection:
    with progress.task("Choosing images"):
        chosen = image_set.select(
            request.data, described.input, described.classes, held_out=request.held_out, count=sys.maxsize
        )
    for images in (chosen.calibration.images, chosen.held_out.images):
        if images.labels is None:
            raise BadInputError(f"{images.root} has no class folders: fine-tuning learns from labels.")
        predictor.require_readable(images, progress)
    return chosen


def _doubts(teacher: Callable[[Tensor], Tensor], judges: ImageSet, device: str, progress: Progress) -> tuple[str, ...]:
    """What the float network makes of some held-out images, told before the training; nothing where that is sound."""
    images = judges.whole(plausibility.IMAGES)

    @torch.no_grad()
    def infer(batch: NDArray[np.generic]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = teacher(torch.from_numpy(batch).to(device)).float().cpu().numpy()
        return scores

    scores = np.concatenate([infer(batch) for batch in images.batches(BATCH)])
    found = tuple(
        f"The float network: {text}" for text in plausibility.look(images.images, scores, images.taken, infer, BATCH)
    )
    for text in found:
        progress.note(text)
    return found


def _prove(model: ir.Model, described: Description, judges: ImageSet, progress: Progress) -> NDArray[np.float32]:
    """The held-out logits of the graph as it is shipped, in ONNX Runtime."""
    graph = model if described.precision == "int8-cpu" else emulate(model)
    with progress.task("Proving in ONNX Runtime"):
        return logits_of(graph, judges, progress, output=described.output)


def _require_same(found: NDArray[np.float32], trained: NDArray[np.float32], path: Path) -> None:
    """The graph must compute what was trained.

    Raises:
        CheckFailedError: it doesn't.
    """
    compared = compare(found, trained)
    difference, bound = compared.logit_difference.max, MAX_DEVIATION * max(1.0, compared.largest_logit)
    if not difference <= bound:
        raise CheckFailedError(
            f"{path.name} in ONNX Runtime differs by {difference:.3g} from what was trained, bound {bound:.3g}.",
            "Nothing was written.",
        )


def _write(
    path: Path,
    recipe: Recipe,
    model: ir.Model,
    described: Description,
    evidence: Proof,
    fields: dict[str, Any],
    proofs: tuple[Iterator[NDArray[np.generic]], NDArray[np.float32], NDArray[np.float32]],
) -> dict[str, Any]:
    """`proofs` are the held-out images' input, the graph's logits of them, and the reference's."""
    description = dataclasses.replace(described, versions=artifacts.versions())
    onnx_file.describe(model, description)
    with artifacts.atomic_path(path) as temporary:
        graph_writing.save(model, temporary)
        types = graph_types.count_types(ir.load(temporary))
        plain = written.check(temporary, path.name, *proofs, described.output)
    shown = dataclasses.replace(evidence, file_as_written=plain).to_dict()
    parent = {"parent": recipe.parent, "parent_sha256": recipe.parent_sha256}
    own = {"kind": "onnx", **parent, **description.to_dict(), "types": types, proof.KEY: shown, **fields}
    return artifacts.write_manifest(path, own)


def _read(source: Path) -> tuple[Description, dict[str, Any]]:
    """What an INT8 file says of itself, and its manifest.

    Raises:
        BadInputError: another precision, no manifest, or an input that can't be trained on.
    """
    _, described = OnnxFile.open(source).read_ours()
    if described.precision not in ("int8", "int8-cpu"):
        raise BadInputError(
            f"{source} is {described.precision}: there is no INT8 to train for.",
            "Make an INT8 file first: `quantize(FILE, precision='int8', images=DATA)`.",
        )
    manifest = artifacts.read_manifest(source)
    if manifest is None:
        raise BadInputError(f"{source} has no manifest: nothing tells how it was made.", "Make it again: `quantize()`.")
    if described.output.of_probabilities:
        raise BadInputError(
            f"{source} gives {described.output.plural}; fine-tuning trains on logits.",
            "Calibrate a float32 file that ends before its softmax or sigmoid, and fine-tune that.",
        )
    if described.input_type != "float32" or described.batch is not None:
        what = "raw pixels" if described.input_type != "float32" else f"batches of {described.batch} alone"
        raise BadInputError(
            f"{source} takes {what}; fine-tuning needs normalized input and any batch.",
            "Export without `input` and `batch`, and calibrate that file.",
        )
    return described, manifest


def default_output(source: Path, precision: Precision) -> Path:
    """`best.int8.onnx` → `best.qat.int8.onnx`."""
    ending = f".{precision}.onnx"
    stem = source.name[: -len(ending)] if source.name.lower().endswith(ending) else model_file.stem(source)
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


def _teacher(
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
    file = ModelFile.open(path)
    if isinstance(file, OnnxFile) and not file.is_ours:
        graph_source.read_origin(path, (described,))
        return OriginTeacher(path, described.output)
    saved = CheckpointFile.open(
        path, reading=described.reading if reading == PLAIN else reading,
        hint="Name what the file was made from: `reference=FILE`.",
    ).load()  # fmt: skip
    if saved.sha256 != described.checkpoint_sha256:
        raise BadInputError(
            f"{path} is not the checkpoint that the file was made from: SHA-256 {saved.sha256[:16]}, expected "
            f"{described.checkpoint_sha256[:16]}.",
            "Name that one: `reference=CKPT`.",
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
    origin = discover.origin_of(source.parent, described.checkpoint_sha256)
    if origin is None:
        raise BadInputError(
            f"The checkpoint or ONNX file that {source} was made from doesn't lie beside it.",
            "Name it: `reference=FILE`.",
        )
    return origin.path
