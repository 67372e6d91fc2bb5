"""`hemf-export verify`: is this file the model that was validated, image by image?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Number,
    batch_option,
    classes_option,
    json_option,
    page_option,
    reading_options,
    seed_option,
)

if TYPE_CHECKING:
    from hemf_export.verification.verification import Verification


@click.command("verify", cls=Command)
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE…", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Images: a data folder (test/, else val/), class folders, or images without labels.")  # fmt: skip
@click.option("--reference", type=PATH, metavar="CKPT",
              help="What they must equal.  [default: the checkpoint they are from, beside them]")  # fmt: skip
@classes_option("a reference that has none")
@reading_options
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Of accuracy.  [default: by precision]")
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Least share of images that keep their class.")
@click.option("--max-recall-drop", type=POINTS, metavar="POINTS", help="Of any class.")
@click.option("--max-logit-diff", type=Number(), help="Of any logit, or probability where files give those; absolute.")
@click.option("--locate", is_flag=True, help="Compare node by node, and name the first that stands out.")
@click.option("--float32", type=PATH, metavar="FILE.onnx",
              help="To look into the files.  [default: what their manifests name, beside them]")  # fmt: skip
@page_option
@click.option("--thumbnails/--no-thumbnails", default=True, show_default=True,
              help="Put small pictures of the changed images into the page.")  # fmt: skip
@click.option("--markdown", type=PATH, metavar="FILE.md", help="Write a summary for a review.")
@click.option("--baseline", "earlier", type=PATH, metavar="OLD.json",
              help="What --json printed before: ends with 3 where accuracy or agreement is worse.")  # fmt: skip
@batch_option()
@seed_option("the bootstrap")
@json_option("whole result")
def command(
    candidates: tuple[Path, ...], data: Path, reference: Path | None, classes: tuple[str, ...] | None,
    max_drop: float | None, min_agreement: float | None, max_recall_drop: float | None, max_logit_diff: float | None,
    locate: bool, float32: Path | None, report: Path | None, thumbnails: bool, markdown: Path | None,
    earlier: Path | None, batch: int, seed: int, as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Run every image of DIR through the reference and each CANDIDATE (ONNX files, engines), and compare.

    Ends with 3 where a bound is missed or a logit is not finite; reports are written all the same.
    """
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.files import artifacts, locks
    from hemf_export.verification import baseline, run, text
    from hemf_export.verification.bounds import Bounds
    from hemf_export.verification.verification import Request

    request = Request(
        candidates=candidates, data=data, reference=reference, seed=seed, batch=batch, reading=reading,
        classes=classes,
        bounds=Bounds(max_drop, min_agreement, max_recall_drop, max_logit_diff),
        earlier=None if earlier is None else baseline.read(earlier),
    )  # fmt: skip
    click.get_current_context().with_resource(locks.owned(*filter(None, (report, markdown))))
    artifacts.check_outputs(filter(None, (report, markdown)), filter(None, (*candidates, reference, earlier, float32)))
    found = run.run(request, float32=float32, locate=locate, progress=ConsoleProgress())
    found.write(html=report, markdown=markdown, thumbnails=thumbnails)
    for note in found.notes:
        console.warn(note)
    if not as_json:
        console.table(text.title(found.values), text.COLUMNS, text.rows(found.values), words=(0, 1))
        for line in (*text.first_nodes(found.values), *text.remarks(found.values)):
            console.say(line)
    found.require(_advice(found.verification, locate))
    if as_json:
        console.print_json(found.values, allow_nan=False)
    else:
        next_step.show(candidates[-1], "verify")


def _advice(found: Verification, located: bool) -> str:
    if located or not any(one.subject.file.kind == "onnx" for one in found.candidates):
        return "Don't ship the file. To allow more, see hemf-export verify --help."
    return "Don't ship the file. --locate names the node where it leaves the float32 one."
