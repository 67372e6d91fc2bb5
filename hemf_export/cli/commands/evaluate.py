"""`hemf-export evaluate`: metrics, plots and tables of models on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    Command,
    batch_option,
    classes_option,
    force_option,
    json_option,
    reading_options,
)
from hemf_export.metrics.percentage import percentage

if TYPE_CHECKING:  # what runs imports it when it is needed: --help shows without torch
    from hemf_export.evaluation.evaluation import Evaluation

# Heading → (figure, whether it is a share).
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
              help="Data folder (test/, else val/) or class folders; once for all files, or for each.")  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="DIR",
              help="For the results.  [default: FILE.evaluation beside FILE; of several, evaluation]")  # fmt: skip
@force_option("an earlier evaluation in that folder")
@classes_option("checkpoints that have none")
@reading_options
@batch_option()
@json_option("figures")
def command(
    files: tuple[Path, ...], data: tuple[Path, ...], output: Path | None, force: bool,
    classes: tuple[str, ...] | None, batch: int, as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Measure how good each FILE (checkpoint, ONNX file or engine) is on labelled images.

    Several files are folds of a cross-validation, each with its own --data in the same order, or runs of one recipe:
    their mean and standard deviation are shown. The folder gets evaluation.json, the confusion matrix and the ROC
    curves as PNG and SVG, and predictions.csv.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.evaluation import evaluation
    from hemf_export.files import artifact_folder, locks

    request = evaluation.Request(files, data, classes, batch, reading)
    folder = output or evaluation.default_folder(files)
    click.get_current_context().with_resource(locks.owned(folder))
    artifact_folder.check(folder, evaluation.MARK, force=force)
    progress = ConsoleProgress()
    found = evaluation.evaluate(request, progress)
    with progress.task("Drawing"):
        evaluation.write(found, folder, force=force)
    for note in _notes(found):
        console.warn(note)
    values = found.to_dict()
    if as_json:
        console.print_json({**values, "folder": str(folder)}, allow_nan=False)
        return
    _show(found, values)
    console.say(f"{folder}: evaluation.json, predictions.csv, confusion and roc as PNG and SVG")
    _propose(found)


def _notes(found: Evaluation) -> list[str]:
    notes = [note for one in found.models for note in one.model.notes] + list(found.notes)
    if any(one.model.emulated for one in found.models):
        notes.append("float16 is emulated here as a GPU rounds it: a CPU would compute it in float32.")
    for one in found.models:
        notes.extend(f"{one.path.name}: {text}" for text in one.doubts)
        if one.images.root.name == "val":
            notes.append(f"{one.images.root} chose the best epoch in training: figures of test images are what counts.")
    return list(dict.fromkeys(notes))


def _show(found: Evaluation, values: dict[str, Any]) -> None:
    from hemf_export.cli import console

    several, total = len(found.models) > 1, sum(len(one.images) for one in found.models)
    titles = _told_apart([one.path for one in found.models])
    rows = [
        (title, str(len(one.images)), *_cells(one.metrics, _COLUMNS, len(one.images)))
        for title, one in zip(titles, found.models, strict=True)
    ]
    if several:
        rows.append(("mean", "", *_cells(values["mean"], _COLUMNS, total)))
        rows.append(("± sd (n - 1)", "", *_cells(values["standard_deviation"], _COLUMNS, total)))
    folders = dict.fromkeys(str(one.images.root) for one in found.models)
    console.table(
        ", ".join(folders) if len(folders) < 3 else f"{len(folders)} folders", ("file", "images", *_COLUMNS), rows
    )
    console.say("Precision, recall and F1 are means over the classes; so recall is the balanced accuracy.")
    classes = []
    for name in found.classes:
        support = sum(one.by_class[name]["support"] for one in found.models)
        if several:
            mean, spread = (values[key]["by_class"][name] for key in ("mean", "standard_deviation"))
            pairs = zip(*(_cells(each, _CLASS_COLUMNS, support) for each in (mean, spread)), strict=True)
            classes.append((name, str(support), *(f"{middle} ± {width}" for middle, width in pairs)))
        else:
            classes.append((name, str(support), *_cells(found.models[0].by_class[name], _CLASS_COLUMNS, support)))
    title = "\nEach class against the rest" + (", mean ± sd" if several else "")
    console.table(title, ("class", "images", *_CLASS_COLUMNS), classes)
    cells = [(name, *(str(count) for count in row)) for name, row in zip(found.classes, found.confusion, strict=True)]
    together = ", summed" if several else ""
    console.table(f"\nConfusion{together} (row: true class)", ("", *found.classes), cells)


def _told_apart(paths: list[Path]) -> list[str]:
    """The ends of the paths, as short as they differ: best.pt, or fold1/best.pt."""
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
    return percentage(value, images) if share else f"{value:.4f}"


def _propose(found: Evaluation) -> None:
    """Look at what a checkpoint got wrong; take it further where it got nothing wrong."""
    from hemf_export.cli import console, next_step

    one = found.models[0]
    wrong = [path for path in one.wrong if str(path).isprintable()]
    if one.file.kind != "checkpoint":
        console.next_command("hemf-export bench", one.path)
    elif wrong:
        console.next_command("hemf-export explain", one.path, *wrong[:_EXPLAINED])
    else:
        next_step.show(one.path)
