"""`hemf-export predict`: images → classes and probabilities, with a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

from pathlib import Path

import click

from hemf.errors import UsageError
from hemf.reading import Reading
from hemf_export.commands.checkpoint_options import reading_options
from hemf_export.number_options import Count


@click.command("predict")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--top", type=Count(), default=3, show_default=True, help="Classes shown for an image.")
@click.option("--batch", type=Count(), help="Images at a time.  [default: 8, or the file's own]")
@click.option("--classes", help="Class names a,b,c for a checkpoint that has none.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path, images: tuple[Path, ...], top: int, batch: int | None, classes: str | None, as_json: bool,
    reading: Reading,
) -> None:  # fmt: skip
    """Show the class of each IMAGE, and how likely it and the next classes are.

    FILE is a checkpoint, an ONNX file or an engine. An IMAGE may be a folder: all images below it are taken, and where
    their folders are named like the classes, the share that is right is shown at the end.
    """
    from hemf_export import console, image_list, predict, prediction_report

    pictures = image_list.collect(images)
    with console.step(f"Reading {file.name}"):
        names = tuple(name.strip() for name in classes.split(",")) if classes else None
        model = predict.load(file, names, reading=reading)
    if batch is not None and model.fixed_batch not in (None, batch):
        raise UsageError(f"{file} has the fixed batch {model.fixed_batch}.", "Leave out --batch.")
    bar = console.PhaseBar("Predicting")
    odd: list[str] = []
    try:
        found = model.predict(pictures.paths, batch or predict.BATCH, bar.update, odd.append)
    finally:
        bar.stop()
    for note in (*model.notes, *odd, *prediction_report.passed_over(pictures)):
        console.warn(note)
    if as_json:
        console.print_json(prediction_report.to_dict(str(file), model, found, pictures))
        return
    root = images[0] if len(images) == 1 and images[0].is_dir() else None
    prediction_report.show(str(file), model, found, pictures, top=top, root=root)
