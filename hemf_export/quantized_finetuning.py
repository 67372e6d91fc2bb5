"""INT8 file + its checkpoint + labelled images → the same graph with weights trained for INT8, proven again.

The graph, its scales and what is in INT8 stay as `calibrate` made them; weights, biases and norms change. So the result
is no longer the checkpoint's arithmetic in INT8 but a model of its own, near it: its figures beside the checkpoint's
say how near.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration import graph_types, selection
from calibration.agreement import Comparison, compare
from calibration.budget import Budget
from calibration.emulation import emulate
from calibration.image_set import ImageSet
from calibration.selection import Selection
from calibration.shapes import infer
from calibration.trials import BATCH
from calibration.trials import logits as logits_of
from hemf import artifacts, locks
from hemf.errors import BadInputError, CheckFailedError
from hemf.reading import PLAIN, Reading
from hemf_export import finetuning_source, graph_writing, onnx_file, plausibility, predictor, written
from hemf_export.description import Description, Precision
from train import finetuning, hardware
from train.finetuning import FineTuned
from train.finetuning_recipe import FineTuning
from train.graph_network import GraphNetwork

MAX_DEVIATION = 0.05  # of the largest logit: what PyTorch and ONNX Runtime may differ by where a step flips
_KEPT = ("calibration_images", "int8", "conversion")  # of the manifest of the file that it is made from


class Listener(finetuning.Listener, Protocol):
    """Also hears of what comes before and after the epochs."""

    def phase(self, text: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Request:
    """What to fine-tune; see `hemf-export finetune --help`.

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


@locks.owning(lambda request, *_, **__: _outputs(request))
def make(request: Request, listener: Listener) -> Made:
    """Fine-tune `request.source` and write the result.

    Raises:
        BadInputError: the file, the checkpoint or the images.
        CheckFailedError: no epoch was better than the file itself, or the budget is missed; nothing is left behind.
        MissingCapabilityError: CUDA asked for and not there.
    """
    device = hardware.choose(request.device).device
    described, manifest = finetuning_source.read(request.source)
    path = request.output or finetuning_source.default_output(request.source, described.precision)
    artifacts.check_outputs((path,), filter(None, (request.source, request.reference)))
    teacher = finetuning_source.teacher(request.source, described, request.reference, device, request.reading)
    chosen = _images(request, described, listener)
    model = ir.load(request.source)
    infer(model)
    trained = finetuning_source.trained_initializers(model.graph)
    network = GraphNetwork(model, trained, described.output).to(device)
    judges = chosen.held_out
    doubts = _doubts(teacher, judges, device, listener)
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
        "figures": {**after.to_dict(), "float16_emulated": described.precision != "int8-cpu"},
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
    proofs = judges.batches(BATCH), found, tuned.reference
    manifest = _write(path, request.source, model, described, fields, proofs)
    return Made(path, before, after, tuned, manifest, (*chosen.notes, *doubts))


def _outputs(request: Request) -> list[Path]:
    """Where the result will lie, as far as that is known before the file is read."""
    if request.output is not None:
        return [request.output]
    kinds: tuple[Precision, ...] = ("int8", "int8-cpu")
    return [finetuning_source.default_output(request.source, kind) for kind in kinds]


def _images(request: Request, described: Description, listener: Listener) -> Selection:
    listener.phase("choosing images", 0, 1)
    chosen = selection.select(
        request.data, described.input, described.classes, held_out=request.held_out, count=sys.maxsize
    )
    for images in (chosen.calibration.images, chosen.held_out.images):
        if images.labels is None:
            raise BadInputError(f"{images.root} has no class folders: fine-tuning learns from labels.")
        predictor.require_readable(images, listener.phase)
    return chosen


def _doubts(teacher: Callable[[Tensor], Tensor], judges: ImageSet, device: str, listener: Listener) -> tuple[str, ...]:
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
        listener.note(text)
    return found


def _prove(model: ir.Model, described: Description, judges: ImageSet, listener: Listener) -> NDArray[np.float32]:
    """The held-out logits of the graph as it is shipped, in ONNX Runtime."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        listener.phase("proving in ONNX Runtime", done, len(judges))

    graph = model if described.precision == "int8-cpu" else emulate(model)
    return logits_of(graph, judges, progress, output=described.output)


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


def _write(
    path: Path,
    source: Path,
    model: ir.Model,
    described: Description,
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
    parent = {"parent": source.name, "parent_sha256": artifacts.sha256(source)}
    made = {"kind": "onnx", **parent, **description.to_dict(), "types": types, **fields, "file_as_written": plain}
    return artifacts.write_manifest(path, made)
