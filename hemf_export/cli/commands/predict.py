"""`hemf-export predict`: images → classes and probabilities, with a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

from pathlib import Path

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import PATH, Command, Count, batch_option, classes_option, json_option, reading_options
from hemf_export.files.errors import UsageError


@click.command("predict", cls=Command)
@click.argument("file", type=PATH)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=PATH)
@click.option("--top", type=Count(), default=3, show_default=True, help="Classes shown for an image.")
@batch_option("8, or the file's own")
@classes_option()
@reading_options
@json_option()
def command(
    file: Path, images: tuple[Path, ...], top: int, batch: int | None, classes: tuple[str, ...] | None, as_json: bool,
    reading: Reading,
) -> None:  # fmt: skip
    """Show the class of each IMAGE, and how likely it and the next classes are.

    FILE is a checkpoint, an ONNX file or an engine. An IMAGE may be a folder: all images below it are taken, and where
    their folders are named like the classes, the share that is right is shown at the end.
    """
    from hemf_export.cli import console, prediction_report
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.images import image_list
    from hemf_export.models import predictor
    from hemf_export.models.model_file import ModelFile

    pictures = image_list.collect(images)
    progress = ConsoleProgress()
    with progress.task(f"Reading {file.name}"):
        model = ModelFile.open(file, classes=classes, reading=reading).predictor()
    if batch is not None and model.fixed_batch not in (None, batch):
        raise UsageError(f"{file} has the fixed batch {model.fixed_batch}.", "Leave out --batch.")
    found = model.predict(pictures.paths, batch or predictor.BATCH, progress)
    for note in (*model.notes, *prediction_report.passed_over(pictures)):
        console.warn(note)
    if as_json:
        console.print_json(prediction_report.to_dict(str(file), model, found, pictures))
        return
    root = images[0] if len(images) == 1 and images[0].is_dir() else None
    prediction_report.show(str(file), model, found, pictures, top=top, root=root)
