"""`hemf-export verify`: is this file the model that was validated, image by image?"""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Number,
    batch_option,
    checkpoint_options,
    classes_option,
    json_option,
    page_option,
    seed_option,
)


@click.command("verify", cls=Command)
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE…", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Images: a data folder (test/, else val/), class folders, or images without labels.")  # fmt: skip
@click.option("--reference", type=PATH, metavar="CKPT",
              help="Model to compare with.  [default: the checkpoint of the files, beside them]")  # fmt: skip
@classes_option("a reference that has none")
@checkpoint_options
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Largest drop of accuracy.  [default: by precision]")
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Smallest share of images that keep their class.")
@click.option("--max-recall-drop", type=POINTS, metavar="POINTS", help="Largest drop of any class's recall.")
@click.option(
    "--max-logit-diff",
    type=Number(),
    help="Largest absolute difference of a logit, or of a probability.",
)
@click.option("--locate", is_flag=True, help="Compare node by node, and name the first that diverges.")
@click.option("--float32", type=PATH, metavar="FILE.onnx",
              help="File that the candidates were converted from.  [default: as their manifests say]")  # fmt: skip
@page_option
@click.option("--thumbnails/--no-thumbnails", default=True, show_default=True,
              help="Show thumbnails of changed images on the page.")  # fmt: skip
@click.option("--markdown", type=PATH, metavar="FILE.md", help="Write a summary for a review.")
@click.option("--baseline", "earlier", type=PATH, metavar="OLD.json",
              help="Earlier output of --json: ends with 3 if accuracy or agreement is worse.")  # fmt: skip
@batch_option()
@seed_option("the bootstrap")
@json_option("whole result")
def command(
    candidates: tuple[Path, ...], data: Path, reference: Path | None, classes: tuple[str, ...] | None,
    max_drop: float | None, min_agreement: float | None, max_recall_drop: float | None, max_logit_diff: float | None,
    locate: bool, float32: Path | None, report: Path | None, thumbnails: bool, markdown: Path | None,
    earlier: Path | None, batch: int, seed: int, as_json: bool, weights: str | None, image_size: int | None,
    factory: str | None,
) -> None:  # fmt: skip
    """Compare each CANDIDATE (ONNX file or engine) with the model that it was made from, on every image of DIR.

    Ends with 3 if a bound is missed or a logit is not finite; reports are written all the same.
    """
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress

    verification = hemf_export.verify(
        candidates, data, reference=reference, classes=classes, weights=weights, image_size=image_size, factory=factory,
        max_drop=max_drop, min_agreement=min_agreement, max_recall_drop=max_recall_drop,
        max_logit_difference=max_logit_diff, locate=locate, float32=float32, baseline=earlier, batch=batch, seed=seed,
        report=report, thumbnails=thumbnails, markdown=markdown, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in verification.notes:
        console.warn(note)
    if not as_json:
        console.result(str(verification))
        table = verification.table
        console.table(f"\n{table.title}", table.columns, table.rows, words=table.words)
        for line in verification.remarks:
            console.say(line)
    verification.require(_advice(verification, locate))
    if as_json:
        console.print_json(verification.to_dict(), allow_nan=False)
    else:
        next_step.show(candidates[-1], "verify")


def _advice(verification: hemf_export.Verification, located: bool) -> str:
    if located or not verification.has_graphs:
        return "Don't ship the file. To allow more, see hemf-export verify --help."
    return "Don't ship the file. --locate names the node where it diverges from the float32 one."
