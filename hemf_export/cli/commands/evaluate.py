"""`hemf-export evaluate`: metrics, plots and tables of models on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.api.defaults import evaluation_folder
from hemf_export.cli.options import (
    PATH,
    Command,
    batch_option,
    checkpoint_options,
    classes_option,
    force_option,
    json_option,
    own_model,
)
from hemf_export.metrics.percentage import coefficient, percentage

# Heading → (metric, whether it is a share).
_COLUMNS = {
    "accuracy": ("accuracy", True),
    "precision": ("macro_precision", True),
    "recall": ("macro_recall", True),
    "F1": ("macro_f1", True),
    "MCC": ("mcc", False),
    "kappa": ("kappa", False),
    "AUC": ("auc", False),
    "ECE": ("ece", False),
    "Brier": ("brier", False),
}
_CLASS_COLUMNS = {
    "precision": ("precision", True),
    "recall": ("recall", True),
    "specificity": ("specificity", True),
    "F1": ("f1", True),
    "AUC": ("auc", False),
}
_EXPLAINED = 4  # images in the next command


@click.command("evaluate", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=PATH)
@click.option("--data", required=True, multiple=True, metavar="DIR", type=PATH,
              help="Data folder (test/, else val/) or class folders; once, or once per file.")  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="DIR",
              help="Folder for results.  [default: FILE.evaluation beside FILE; evaluation for several]")  # fmt: skip
@force_option("an earlier evaluation in that folder")
@classes_option("checkpoints that have none")
@checkpoint_options
@batch_option()
@json_option("figures")
def command(
    files: tuple[Path, ...], data: tuple[Path, ...], output: Path | None, force: bool,
    classes: tuple[str, ...] | None, batch: int, as_json: bool, weights: str | None, image_size: int | None,
    factory: str | None,
) -> None:  # fmt: skip
    """Measure the accuracy of each FILE (checkpoint, ONNX file or engine) on labelled images.

    Several files are folds of a cross-validation, each with its own --data in the same order, or runs of one
    recipe: their mean and standard deviation are shown. The output folder gets evaluation.json, predictions.csv,
    and the confusion matrix and ROC curves as PNG and SVG.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    evaluation = hemf_export.evaluate(
        files, data, output or evaluation_folder(files), classes=classes, weights=weights, image_size=image_size,
        factory=factory,
        batch=batch, force=force, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in evaluation.notes:
        console.warn(note)
    values = evaluation.to_dict()
    if as_json:
        console.print_json({**values, "folder": str(evaluation.path)}, allow_nan=False)
        return
    _show(values)
    console.say(f"{evaluation.path}: evaluation.json, predictions.csv, confusion and roc as PNG and SVG")
    _propose(files[0], evaluation)


def _show(values: dict[str, Any]) -> None:
    from hemf_export.cli import console

    models, several = values["models"], len(values["models"]) > 1
    counts = [one["images"]["images"] for one in models]
    titles = _distinct_names([Path(one["path"]) for one in models])
    rows = [
        (title, str(count), *_cells(one["metrics"], _COLUMNS, count))
        for title, count, one in zip(titles, counts, models, strict=True)
    ]
    if several:
        rows.append(("mean", "", *_cells(values["mean"], _COLUMNS, sum(counts))))
        rows.append(("± sd (n - 1)", "", *_cells(values["standard_deviation"], _COLUMNS, sum(counts))))
    folders = dict.fromkeys(one["images"]["path"] for one in models)
    console.table(
        ", ".join(folders) if len(folders) < 3 else f"{len(folders)} folders", ("file", "images", *_COLUMNS), rows
    )
    console.say("Precision, recall and F1 are means over the classes; so recall is the balanced accuracy.")
    classes = []
    for name in values["classes"]:
        support = sum(one["by_class"][name]["support"] for one in models)
        if several:
            mean, spread = (values[key]["by_class"][name] for key in ("mean", "standard_deviation"))
            pairs = zip(*(_cells(each, _CLASS_COLUMNS, support) for each in (mean, spread)), strict=True)
            classes.append((name, str(support), *(f"{middle} ± {width}" for middle, width in pairs)))
        else:
            classes.append((name, str(support), *_cells(models[0]["by_class"][name], _CLASS_COLUMNS, support)))
    title = "\nEach class against the rest" + (", mean ± sd" if several else "")
    console.table(title, ("class", "images", *_CLASS_COLUMNS), classes)
    confusion = values["confusion"] if several else models[0]["metrics"]["confusion"]
    cells = [(name, *map(str, row)) for name, row in zip(values["classes"], confusion, strict=True)]
    together = ", summed" if several else ""
    console.table(f"\nConfusion{together} (row: true class)", ("", *values["classes"]), cells)


def _distinct_names(paths: list[Path]) -> list[str]:
    """Return the shortest distinct ends of the paths: best.pt, or fold1/best.pt."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        ends = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    return [path.name for path in paths]  # one file, on several folders


def _cells(figures: dict[str, Any], columns: dict[str, tuple[str, bool]], images: int) -> list[str]:
    return [_cell(figures[name], share, images) for name, share in columns.values()]


def _cell(value: float | None, share: bool, images: int) -> str:
    if value is None:
        return "–"
    return percentage(value, images) if share else coefficient(value, images)


def _propose(file: Path, evaluation: hemf_export.Evaluation) -> None:
    """Propose to explain a checkpoint's wrong predictions, or the next step if there are none."""
    from hemf_export.cli import console, next_step

    wrong = [path for path in evaluation.wrong if str(path).isprintable()]
    if evaluation.kinds[0] != "checkpoint":
        console.next_command("hemf-export bench", file, *own_model())
    elif wrong:
        console.next_command("hemf-export explain", file, *wrong[:_EXPLAINED], *own_model())
    else:
        next_step.show(file)
