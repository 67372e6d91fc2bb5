"""`hemf-export triton-client`: images → classes and probabilities, by a model on a Triton server."""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import PATH, SECONDS, Command, Count, json_option


@click.command("triton-client", cls=Command)
@click.argument("url")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=PATH)
@click.option("--model", "name", help="Name of the model.  [default: the only one]")
@click.option("--version", type=Count(), help="Version of the model.  [default: the highest that is ready]")
@click.option("--top", type=Count(), default=3, show_default=True, help="Number of classes shown for an image.")
@click.option("--batch", type=Count(), help="Images per request.  [default: 8, or the model's own]")
@click.option("--timeout", "timeout_s", type=SECONDS, default=60.0, show_default=True,
              metavar="SECONDS", help="Longest time that a request may take.")  # fmt: skip
@json_option()
def command(
    url: str, images: tuple[Path, ...], name: str | None, version: int | None, top: int, batch: int | None,
    timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Show the most likely classes of each IMAGE by the Triton server at URL, and their probabilities.

    URL is http://HOST:PORT or grpc://HOST:PORT. Images are preprocessed here, as the model's configuration, written
    by hemf-export triton, describes. Ends with 4 if no server answers or the model isn't ready.
    """
    from hemf_export.cli import prediction_report
    from hemf_export.cli.progress import ConsoleProgress

    predictions = hemf_export.predict_served(
        url, images, model=name, version=version, batch=batch, timeout=timeout_s, progress=ConsoleProgress()
    )
    prediction_report.show(predictions, images, top=top, as_json=as_json)
