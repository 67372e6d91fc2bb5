"""Evaluate models on labelled images: one, the folds of a cross-validation, or the seeds of one recipe.

Data that can't be evaluated is refused before the first image: no class folders, other classes, images that don't
decode.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.calibration.image_set import ImageSet
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files import artifact_folder, artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import folders, image_labels
from hemf_export.images.folders import LabelledImages
from hemf_export.metrics import classification
from hemf_export.metrics.classification import RocCurve, by_class, mean_curve, roc_curves
from hemf_export.metrics.percentage import percentage
from hemf_export.models import file_kinds, graph_source, plausibility, predictor
from hemf_export.models.model_file import ModelFile
from hemf_export.models.predictor import Predictor
from hemf_export.train import figures

BATCH = 8
FORMAT = 1  # of the JSON
MARK = "evaluation.json"  # file that marks the folder of an evaluation
_SHOWN = 3  # names of images in a message
FIGURES = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "mcc", "kappa", "auc", "ece",
    "brier",
)  # fmt: skip
CLASS_FIGURES = ("precision", "recall", "specificity", "f1", "auc")


@dataclass(frozen=True)
class Request:
    """Request for an evaluation.

    Args:
        files: files of any kind that `models.model_file` reads.
        data: one data folder (test/, else val/) or folder of class folders for all files, or one per file, in order.
        classes: class names, for checkpoints that have none.
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
            raise UsageError("No file was named.", "`evaluate(*FILE, data=DIR)`")
        if len(self.data) not in (1, len(self.files)):
            raise UsageError(
                f"{len(self.files)} files and {len(self.data)} data folders don't pair up.",
                "Give `data` once for all files, or once for each, in their order.",
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


@dataclass(frozen=True)
class Evaluated:
    """A model, the images and its scores on them.

    Args:
        file: the file that was run.
        model: read from the file.
        images: with labels.
        probabilities: (n, classes), in the order of the images.
        metrics: see `metrics.classification.summarize`.
        by_class: see `metrics.classification.by_class`.
        doubts: see `models.plausibility`.
    """

    file: ModelFile
    model: Predictor
    images: LabelledImages
    probabilities: NDArray[np.float64]
    metrics: dict[str, Any]
    by_class: dict[str, dict[str, Any]]
    doubts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def labels(self) -> tuple[int, ...]:
        """True classes of the images."""
        assert self.images.labels is not None
        return self.images.labels

    @property
    def curves(self) -> tuple[RocCurve, ...]:
        """ROC curve of each class against the rest."""
        return roc_curves(self.labels, self.probabilities, self.model.description.classes)

    @property
    def wrong(self) -> tuple[Path, ...]:
        """Misclassified images, those with the most confidence first."""
        confidence, predicted = self.probabilities.max(1), self.probabilities.argmax(1)
        indices = np.flatnonzero(predicted != np.asarray(self.labels))
        ranked = sorted(indices.tolist(), key=lambda index: -confidence[index])
        return tuple(self.images.paths[index] for index in ranked)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, without NaN, for JSON."""
        return {
            "file": self.file.name,
            "path": str(self.file.path),
            "sha256": self.file.sha256,
            "checkpoint_sha256": self.model.description.checkpoint_sha256,
            **self.model.to_dict(),
            "images": {**ImageSet(self.images, self.model.description.input).to_dict(), "path": str(self.images.root)},
            "metrics": self.metrics,
            "by_class": self.by_class,
            "doubts": list(self.doubts),
        }


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        models: one entry for each file.
        notes: remarks on odd images.
    """

    models: tuple[Evaluated, ...]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the first model's logits."""
        return self.models[0].model.description.classes

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the user on the files, the images and the figures, each once."""
        notes = [note for one in self.models for note in one.model.notes] + list(self.notes)
        if any(one.model.emulated for one in self.models):
            notes.append("float16 is emulated here as a GPU rounds it: a CPU would compute it in float32.")
        for one in self.models:
            notes.extend(f"{one.path.name}: {text}" for text in one.doubts)
            if one.images.root.name == "val":
                notes.append(
                    f"{one.images.root} chose the best epoch in training: figures of test images are what counts."
                )
        return tuple(dict.fromkeys(notes))

    @property
    def confusion(self) -> list[list[int]]:
        """Confusion matrix by true and predicted class, summed over the models."""
        total = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for one in self.models:
            order = [one.model.description.classes.index(name) for name in self.classes]
            total += np.asarray(one.metrics["confusion"])[np.ix_(order, order)]
        counts: list[list[int]] = total.tolist()
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, without NaN, for JSON.

        Several models have `mean` and `standard_deviation` (n - 1) of each figure; None where it is undefined for one
        of them.
        """
        values: dict[str, Any] = {
            "evaluation": FORMAT,
            "classes": list(self.classes),
            "models": [one.to_dict() for one in self.models],
        }
        if len(self.models) > 1:
            values |= {
                "confusion": self.confusion,
                "mean": self._over_models(statistics.fmean),
                "standard_deviation": self._over_models(statistics.stdev),
            }
        return {**values, "versions": artifacts.versions()}

    def _over_models(self, average: Callable[[list[float]], float]) -> dict[str, Any]:
        def over(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return average(known) if len(known) == len(values) else None

        models = self.models
        by_class = {
            kind: {name: over([one.by_class[kind][name] for one in models]) for name in CLASS_FIGURES}
            for kind in self.classes
        }
        return {**{name: over([one.metrics[name] for one in models]) for name in FIGURES}, "by_class": by_class}


def evaluate(request: Request, progress: Progress = SILENT) -> Evaluation:
    """Run each file on its images and measure it. Float16 in ONNX files is emulated, as a CPU would hide its effect.

    Args:
        request: files and images.
        progress: receives the steps.

    Raises:
        BadInputError: a file or the images can't be used, or classes differ between files.
        CheckFailedError: logits are not finite.
        MissingCapabilityError: an engine can't run here.
    """
    models: list[Predictor] = []
    files = [ModelFile.open(path, classes=request.classes) for path in request.files]
    if request.reading.given and not any(file.kind == "checkpoint" for file in files):
        raise UsageError(
            "`weights`, `image_size` and `factory` are for checkpoints: none is among the files.", "Leave them out."
        )
    for index, file in enumerate(files):
        if file.kind == "checkpoint":
            files[index] = file.read_as(classes=request.classes, reading=request.reading)
    for file in files:
        with progress.task(f"Reading {file.name}"):
            models.append(graph_source.known_beside(file).predictor(for_proof=True))
        if set(models[-1].description.classes) != set(models[0].description.classes):
            raise BadInputError(
                f"{file.path} has the classes {', '.join(models[-1].description.classes)}; {files[0].path} has "
                f"{', '.join(models[0].description.classes)}.",
                "Evaluate each by itself: a mean over other classes says nothing.",
            )
    listed: list[LabelledImages] = []
    notes: list[str] = []
    for (_, data), model in zip(request.pairs, models, strict=True):
        images, own = _labelled(data, model)
        listed.append(images)
        notes.extend(own)
    for root, images in {images.root.resolve(): images for images in listed}.items():
        takers = [
            model.description.input for model, own in zip(models, listed, strict=True) if own.root.resolve() == root
        ]
        notes += predictor.require_readable(images, progress, takers)
    pairs = zip(files, models, listed, strict=True)
    return Evaluation(tuple(_evaluated(*pair, request.batch, progress) for pair in pairs), tuple(notes))


def default_folder(files: tuple[Path, ...]) -> Path:
    """Name the default folder: beside a single file and named after it; for several, in the current folder."""
    return files[0].with_name(f"{file_kinds.stem(files[0])}.evaluation") if len(files) == 1 else Path("evaluation")


def write(evaluation: Evaluation, folder: Path, *, force: bool) -> None:
    """Write the folder as a whole: `evaluation.json`, `confusion` and `roc` as PNG and SVG, `predictions.csv`.

    With several models, each has its plots and predictions in a folder of its own, such as `1-best`. The plots above
    these folders are for all models: the sum of the confusion matrices, and each model's macro curve with their mean.

    Raises:
        BadInputError: the folder holds something else, or earlier results without `force`.
    """
    with artifact_folder.whole(folder, MARK, force=force) as place:
        if len(evaluation.models) == 1:
            _write_model(evaluation.models[0], place)
        else:
            for number, one in enumerate(evaluation.models, 1):
                own = place / f"{number}-{one.file.stem}"
                own.mkdir()
                _write_model(one, own)
            _write_all(evaluation, place)
        artifacts.write_bytes(
            place / MARK, (json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n").encode()
        )


def _labelled(data: Path, model: Predictor) -> tuple[LabelledImages, tuple[str, ...]]:
    images, notes = image_labels.read(data, model.description.classes)
    if images.labels is None:
        raise BadInputError(
            f"{data} has no class folders: without the true classes nothing can be evaluated.",
            f"Put the images into one folder a class ({', '.join(model.description.classes)}); "
            "`predict()` does without.",
        )
    return images, notes


def _evaluated(file: ModelFile, model: Predictor, images: LabelledImages, batch: int, progress: Progress) -> Evaluated:
    parts: list[NDArray[np.float32]] = []
    with progress.task(f"Evaluating {file.name}", len(images), "images") as task:
        for pixels in folders.batches(images, model.description.input, model.batch_size(batch)):
            parts.append(model.logits(pixels))
            task.advance(len(pixels))
    logits = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        names = ", ".join(images.paths[index].name for index in bad[:_SHOWN]) + " …" * (len(bad) > _SHOWN)
        raise CheckFailedError(
            f"{file.path}: the logits of {len(bad)} of {len(images)} images are not finite ({names}).",
            "Numbers overflow on the way: take the float32 file, or an earlier checkpoint.",
        )
    assert images.labels is not None
    probabilities = model.description.output.probabilities(logits)
    return Evaluated(
        file, model, images, probabilities,
        classification.summarize(images.labels, logits, model.description.classes, model.description.output),
        by_class(images.labels, probabilities, model.description.classes),
        plausibility.look(images, logits, model.description.input, model.infer, model.batch_size(batch)),
    )  # fmt: skip


def _write_model(one: Evaluated, folder: Path) -> None:
    subject = f"{one.path.name} on {_place(one)}"
    right = f"{percentage(one.metrics['accuracy'], len(one.images))} of {len(one.images)} images"
    _write_confusion(one.metrics["confusion"], one.model.description.classes, f"{subject}: {right}", folder)
    if curves := one.curves:
        _write_roc(curves, mean_curve(curves), f"{subject}: a class against the rest", folder)
    artifacts.write_bytes(folder / "predictions.csv", _predictions(one))


def _write_all(evaluation: Evaluation, folder: Path) -> None:
    models = evaluation.models
    total = sum(len(one.images) for one in models)
    _write_confusion(evaluation.confusion, evaluation.classes, f"{len(models)} files together, {total} images", folder)
    named = [(f"{number}-{one.file.stem}", one.curves) for number, one in enumerate(models, 1)]
    macro = [mean_curve(curves, name) for name, curves in named if curves]
    if macro:
        _write_roc(macro, mean_curve(macro, "mean"), f"{len(macro)} files, macro curve of each", folder)


def _write_confusion(counts: list[list[int]], classes: tuple[str, ...], title: str, folder: Path) -> None:
    drawn = figures.confusion(counts, classes, title)
    for kind in ("png", "svg"):
        artifacts.write_bytes(folder / f"confusion.{kind}", figures.encode(drawn, kind))


def _write_roc(curves: tuple[RocCurve, ...] | list[RocCurve], mean: RocCurve, title: str, folder: Path) -> None:
    drawn = figures.roc(curves, title, mean=mean)
    for kind in ("png", "svg"):
        artifacts.write_bytes(folder / f"roc.{kind}", figures.encode(drawn, kind))


def _predictions(one: Evaluated) -> bytes:
    """Write one line per image: its path below the folder, true and predicted class, the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "true", "predicted", *(f"p({name})" for name in one.model.description.classes)])
    for path, label, row in zip(one.images.paths, one.labels, one.probabilities, strict=True):
        name = path.relative_to(one.images.root).as_posix()
        classes = one.model.description.classes
        writer.writerow([name, classes[label], classes[int(row.argmax())], *(f"{value:.6g}" for value in row)])
    return text.getvalue().encode(errors="backslashreplace")


def _place(one: Evaluated) -> str:
    """Name the last two parts of the folder, such as data/test."""
    return "/".join(one.images.root.resolve().parts[-2:])
