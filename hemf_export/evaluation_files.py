"""The folder that an evaluation leaves: figures as JSON, plots, and every image's class and probabilities."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hemf import artifact_folder, artifacts
from hemf_export import model_kind
from hemf_export.evaluated import Evaluated, Evaluation
from train import figures
from train.class_metrics import RocCurve, mean_curve

MARK = "evaluation.json"  # by which its folders are known


def default_folder(files: tuple[Path, ...]) -> Path:
    """Beside a single file and named after it; for several, in the current folder."""
    return files[0].with_name(f"{model_kind.stem(files[0])}.evaluation") if len(files) == 1 else Path("evaluation")


def write(evaluation: Evaluation, folder: Path, *, force: bool) -> None:
    """Write the folder whole: `evaluation.json`, `confusion` and `roc` as PNG and SVG, `predictions.csv`.

    Of several models, each has its plots and predictions in a folder of its own, `1-best`; those above them are of all:
    the sum of the confusion matrices, and the macro curve of each model with their mean.

    Raises:
        BadInputError: the folder holds something else, or earlier results without `force`.
    """
    with artifact_folder.whole(folder, MARK, force=force) as place:
        if len(evaluation.models) == 1:
            _write_model(evaluation.models[0], place)
        else:
            for number, one in enumerate(evaluation.models, 1):
                own = place / f"{number}-{model_kind.stem(one.path)}"
                own.mkdir()
                _write_model(one, own)
            _write_all(evaluation, place)
        artifacts.write_bytes(
            place / MARK, (json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n").encode()
        )


def _write_model(one: Evaluated, folder: Path) -> None:
    subject = f"{one.path.name} on {_place(one)}"
    right = f"{one.metrics['accuracy']:.2%} of {len(one.images)} images"
    _write_confusion(one.metrics["confusion"], one.model.classes, f"{subject}: {right}", folder)
    if curves := one.curves:
        _write_roc(curves, mean_curve(curves), f"{subject}: a class against the rest", folder)
    artifacts.write_bytes(folder / "predictions.csv", _predictions(one))


def _write_all(evaluation: Evaluation, folder: Path) -> None:
    models = evaluation.models
    total = sum(len(one.images) for one in models)
    _write_confusion(evaluation.confusion, evaluation.classes, f"{len(models)} files together, {total} images", folder)
    named = [(f"{number}-{model_kind.stem(one.path)}", one.curves) for number, one in enumerate(models, 1)]
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
    """One line an image: its name below the folder, true and predicted class, the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "true", "predicted", *(f"p({name})" for name in one.model.classes)])
    for path, label, row in zip(one.images.paths, one.labels, one.probabilities, strict=True):
        name = path.relative_to(one.images.root).as_posix()
        classes = one.model.classes
        writer.writerow([name, classes[label], classes[int(row.argmax())], *(f"{value:.6g}" for value in row)])
    return text.getvalue().encode(errors="backslashreplace")


def _place(one: Evaluated) -> str:
    """The last two parts of the folder: data/test."""
    return "/".join(one.images.root.resolve().parts[-2:])
