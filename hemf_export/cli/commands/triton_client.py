"""`hemf-export triton-client`: images → classes and probabilities, by a model on a Triton server."""

from __future__ import annotations

from pathlib import Path

import click

from hemf_export.cli.options import PATH, SECONDS, Command, Count, json_option
from hemf_export.files.errors import UsageError


@click.command("triton-client", cls=Command)
@click.argument("url")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=PATH)
@click.option("--model", "name", help="Name of the model.  [default: the only one]")
@click.option("--version", type=Count(), help="Of the model.  [default: the highest that is ready]")
@click.option("--top", type=Count(), default=3, show_default=True, help="Classes shown for an image.")
@click.option("--batch", type=Count(), help="Images of a request.  [default: 8, or the model's own]")
@click.option("--timeout", "timeout_s", type=SECONDS, default=60.0, show_default=True,
              metavar="SECONDS", help="For one request.")  # fmt: skip
@json_option()
def command(
    url: str, images: tuple[Path, ...], name: str | None, version: int | None, top: int, batch: int | None,
    timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Show the class of each IMAGE, as the Triton server at URL sees it, and how likely it and the next classes are.

    URL is http://HOST:PORT or grpc://HOST:PORT. Images are preprocessed here, by the description that hemf-export
    triton put into the model's configuration. Ends with 4 where no server answers or the model isn't ready.
    """
    from hemf_export.cli import console, prediction_report
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.images import image_list
    from hemf_export.models.predictor import BATCH
    from hemf_export.triton import client
    from hemf_export.triton.client import Server

    pictures = image_list.collect(images)
    server = Server(url, timeout_s)
    progress = ConsoleProgress()
    try:
        with progress.task(f"Asking {server.url}"):
            model = client.load(server, name, version)
        if batch is not None and model.fixed_batch not in (None, batch):
            raise UsageError(f"{model.name} has the fixed batch {model.fixed_batch}.", "Leave out --batch.")
        found = model.predict(pictures.paths, batch or BATCH, progress)
    finally:
        server.close()
    for note in prediction_report.passed_over(pictures):
        console.warn(note)
    if as_json:
        console.print_json(prediction_report.to_dict(model.name, model, found, pictures))
        return
    root = images[0] if len(images) == 1 and images[0].is_dir() else None
    prediction_report.show(model.name, model, found, pictures, top=top, root=root)
