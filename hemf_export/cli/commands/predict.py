"""`hemf-export predict`: images → classes and probabilities, with a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import PATH, Command, Count, batch_option, checkpoint_options, classes_option, json_option


@click.command("predict", cls=Command)
@click.argument("file", type=PATH)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=PATH)
@click.option("--top", type=Count(), default=3, show_default=True, help="Number of classes shown for an image.")
@batch_option("8, or the file's own")
@classes_option()
@checkpoint_options
@json_option()
def command(
    file: Path, images: tuple[Path, ...], top: int, batch: int | None, classes: tuple[str, ...] | None, as_json: bool,
    weights: str | None, image_size: int | None, factory: str | None,
) -> None:  # fmt: skip
    """Show the most likely classes of each IMAGE, and their probabilities.

    FILE is a checkpoint, an ONNX file or an engine. An IMAGE may be a folder, which is searched at any depth; where
    its folders are named like the classes, the share of correct images is shown at the end.
    """
    from hemf_export.cli import prediction_report
    from hemf_export.cli.progress import ConsoleProgress

    predictions = hemf_export.predict(
        file,
        images,
        batch=batch,
        classes=classes,
        weights=weights,
        image_size=image_size,
        factory=factory,
        progress=ConsoleProgress(),
    )
    prediction_report.show(predictions, images, top=top, as_json=as_json)
