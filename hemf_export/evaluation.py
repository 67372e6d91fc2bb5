"""How good is a model on labelled images? One or several: folds of a cross-validation, or seeds of one recipe.

    from hemf_export import evaluation
    found = evaluation.evaluate(evaluation.Request(files=(Path("best.pt"),), data=(Path("data"),)))
    print(found.to_dict()["models"][0]["metrics"]["accuracy"])

What can't be evaluated is refused before the first image: no class folders, other classes, images that don't decode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemf import artifacts, folders
from hemf.errors import BadInputError, CheckFailedError, UsageError
from hemf.folders import LabelledImages
from hemf.reading import PLAIN, Reading
from hemf_export import image_labels, model_kind, plausibility, predict, predictor
from hemf_export.evaluated import Evaluated, Evaluation
from hemf_export.predictor import Predictor
from train import metrics
from train.class_metrics import by_class

BATCH = 8
_SHOWN = 3  # names of images in a message

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to evaluate; see `hemf-export evaluate --help`.

    Args:
        files: of any kind that `hemf_export.predict` reads.
        data: one data folder (test/, else val/) or folder of class folders for all files, or one a file, in order.
        classes: names, for checkpoints that have none.
        batch: images at a time.
        reading: how the checkpoints among the files are read.

    Raises:
        UsageError: no file, one named twice for the same data, or a number of data folders that fits neither.
    """

    files: tuple[Path, ...]
    data: tuple[Path, ...]
    classes: tuple[str, ...] | None = None
    batch: int = BATCH
    reading: Reading = PLAIN

    def __post_init__(self) -> None:
        if not self.files:
            raise UsageError("No file was named.", "hemf-export evaluate FILE… --data DIR")
        if len(self.data) not in (1, len(self.files)):
            raise UsageError(
                f"{len(self.files)} files and {len(self.data)} data folders don't pair up.",
                "Give --data once for all files, or once for each, in their order.",
            )
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")
        seen = set()
        for path, data in self.pairs:
            pair = path.resolve(), data.resolve()
            if pair in seen:
                raise UsageError(f"{path} is named twice for {data}.", "A mean over a file and itself shows nothing.")
            seen.add(pair)

    @property
    def pairs(self) -> tuple[tuple[Path, Path], ...]:
        """Each file and its data."""
        data = self.data * len(self.files) if len(self.data) == 1 else self.data
        return tuple(zip(self.files, data, strict=True))


def evaluate(request: Request, progress: Progress = lambda phase, done, total: None) -> Evaluation:
    """Run each file on its images, and measure. Float16 in ONNX files is emulated, as a CPU would hide what it does.

    Args:
        request: what.
        progress: told the phase, how many items are through it, and of how many.

    Raises:
        BadInputError: a file or the images; classes that differ between files.
        CheckFailedError: logits that are not finite.
        MissingCapabilityError: an engine that can't run here.
    """
    models: list[Predictor] = []
    kinds = {path: model_kind.kind_of(path) for path in request.files}
    if request.reading != PLAIN and "checkpoint" not in kinds.values():
        raise UsageError("--weights and --image-size are for checkpoints: none is among the files.", "Leave them out.")
    for path, _ in request.pairs:
        progress("reading the files", len(models), len(request.files))
        reading = request.reading if kinds[path] == "checkpoint" else PLAIN
        models.append(predict.load(path, request.classes, reading=reading, for_proof=True))
        if set(models[-1].classes) != set(models[0].classes):
            raise BadInputError(
                f"{path} has the classes {', '.join(models[-1].classes)}; {request.files[0]} has "
                f"{', '.join(models[0].classes)}.",
                "Evaluate each by itself: a mean over other classes says nothing.",
            )
    listed: list[LabelledImages] = []
    notes: list[str] = []
    for (_, data), model in zip(request.pairs, models, strict=True):
        images, own = _labelled(data, model)
        listed.append(images)
        notes.extend(own)
    for root, images in {images.root.resolve(): images for images in listed}.items():
        takers = [model.input for model, own in zip(models, listed, strict=True) if own.root.resolve() == root]
        notes += predictor.require_readable(images, progress, takers)
    pairs = zip(request.files, models, listed, strict=True)
    return Evaluation(tuple(_evaluated(*pair, request.batch, progress) for pair in pairs), tuple(notes))


def _labelled(data: Path, model: Predictor) -> tuple[LabelledImages, tuple[str, ...]]:
    images, notes = image_labels.read(data, model.classes)
    if images.labels is None:
        raise BadInputError(
            f"{data} has no class folders: without the true classes nothing can be evaluated.",
            f"Put the images into one folder a class ({', '.join(model.classes)}); hemf-export predict does without.",
        )
    return images, notes


def _evaluated(path: Path, model: Predictor, images: LabelledImages, batch: int, progress: Progress) -> Evaluated:
    phase = f"evaluating {path.name}"
    parts: list[NDArray[np.float32]] = []
    done = 0
    progress(phase, done, len(images))
    for pixels in folders.batches(images, model.input, model.fixed_batch or model.filled(batch)):
        parts.append(model.logits(pixels))
        done += len(pixels)
        progress(phase, done, len(images))
    logits = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        names = ", ".join(images.paths[index].name for index in bad[:_SHOWN]) + " …" * (len(bad) > _SHOWN)
        raise CheckFailedError(
            f"{path}: the logits of {len(bad)} of {len(images)} images are not finite ({names}).",
            "Numbers overflow on the way: take the float32 file, or an earlier checkpoint.",
        )
    assert images.labels is not None
    probabilities = model.output.probabilities(logits)
    return Evaluated(
        path, artifacts.sha256(path), model, images, probabilities,
        metrics.summarize(images.labels, logits, model.classes, model.output),
        by_class(images.labels, probabilities, model.classes),
        plausibility.look(images, logits, model.input, model.infer, model.fixed_batch or model.filled(batch)),
    )  # fmt: skip
