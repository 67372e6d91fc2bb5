"""`hemf-export predict`: images → classes and probabilities, with a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf.errors import UsageError

if TYPE_CHECKING:  # what runs imports it when it is needed: --help shows without torch
    from hemf_export.predictor import Prediction

_SHOWN = 5  # names in a warning


@click.command("predict")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes shown for an image.")
@click.option("--batch", type=click.IntRange(min=1), help="Images at a time.  [default: 8, or the file's own]")
@click.option("--classes", help="Class names a,b,c for a checkpoint that has none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path, images: tuple[Path, ...], top: int, batch: int | None, classes: str | None, as_json: bool
) -> None:
    """Show the class of each IMAGE, and how likely it and the next classes are.

    FILE is a checkpoint, an ONNX file or an engine. An IMAGE may be a folder: all images below it are taken, and where
    their folders are named like the classes, the share that is right is shown at the end.
    """
    from hemf_export import console, image_list, predict

    pictures = image_list.collect(images)
    with console.step(f"Reading {file.name}"):
        model = predict.load(file, tuple(name.strip() for name in classes.split(",")) if classes else None)
    if batch is not None and model.fixed_batch not in (None, batch):
        raise UsageError(f"{file} has the fixed batch {model.fixed_batch}.", "Leave out --batch.")
    bar = console.PhaseBar("Predicting")
    try:
        found = model.predict(pictures.paths, batch or predict.BATCH, bar.update)
    finally:
        bar.stop()
    for note in (*model.notes, *_passed_over(pictures.passed_over)):
        console.warn(note)
    shares = pictures.shares(model.classes, [prediction.label for prediction in found])
    if as_json:
        values: dict[str, Any] = {
            "file": str(file),
            "classes": list(model.classes),
            "predictions": [
                {
                    "image": str(prediction.path),
                    "class": prediction.label,
                    "probability": prediction.probability,
                    "probabilities": dict(zip(model.classes, prediction.probabilities, strict=True)),
                }
                for prediction in found
            ],
        }
        if shares:
            values["class_folders"] = [{**vars(share), "folder": str(share.folder)} for share in shares]
        click.echo(json.dumps(values, indent=2))
        return
    # Of one folder, the names below it tell enough.
    root = images[0] if len(images) == 1 and images[0].is_dir() else None
    rows = [
        _row(prediction, model.classes, top, folder, root)
        for prediction, folder in zip(found, pictures.class_folders(model.classes), strict=True)
    ]
    count = f"{len(found)} image{'s' * (len(found) != 1)}" + (f" of {console.printable(root)}" if root else "")
    columns = ("image", "class", "probability", "next likely")[: len(rows[0])]
    console.table(f"{console.printable(file)} ({model.precision}): {count}", columns, rows, words=(0, 1, 3))
    if shares:
        right = [(console.printable(share.folder), _share(share.right, share.images)) for share in shares]
        console.facts("\nRight by their folders' names (✗: the others)", right)


def _row(
    prediction: Prediction, classes: tuple[str, ...], top: int, folder: Path | None, root: Path | None
) -> tuple[str, ...]:
    """Image, class (marked where `folder` is called otherwise), its probability, and the next likely if `top` asks."""
    from hemf_export import console

    ranked = sorted(zip(prediction.probabilities, classes, strict=True), key=lambda item: -item[0])
    following = "  ".join(f"{name} {_percent(probability)}" for probability, name in ranked[1:top])
    path = prediction.path if root is None else prediction.path.relative_to(root)
    wrong = folder is not None and folder.name != prediction.label
    cells = console.printable(path), prediction.label + " ✗" * wrong, _percent(prediction.probability)
    return (*cells, following) if following else cells


def _share(right: int, images: int) -> str:
    return f"{right} of {images}, {right / images:.2%}"


def _percent(probability: float) -> str:
    """Never 0 or 100, which no softmax says."""
    if probability < 0.00005:
        return "<0.01%"
    return ">99.99%" if probability > 0.99995 else f"{probability:.2%}"


def _passed_over(paths: tuple[Path, ...]) -> list[str]:
    if not paths:
        return []
    from hemf_export import console

    names = ", ".join(console.printable(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return [f"Passed over, as not images by their names: {names}{more}."]
