"""`hemf-export verify`: is this file the model that was validated, image by image?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf.reading import Reading
from hemf_export.commands.checkpoint_options import reading_options
from hemf_export.number_options import POINTS, SHARE, Count, Number, Seed

if TYPE_CHECKING:
    from hemf_export.verify.verified import Verification


@click.command("verify")
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE…", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="Images: a data folder (test/, else val/), class folders, or images without labels.")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), metavar="CKPT",
              help="What they must equal.  [default: the checkpoint they are from, beside them]")  # fmt: skip
@click.option("--classes", help="Class names a,b,c for a reference that has none.")
@reading_options
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Of accuracy.  [default: by precision]")
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Least share of images that keep their class.")
@click.option("--max-recall-drop", type=POINTS, metavar="POINTS", help="Of any class.")
@click.option("--max-logit-diff", type=Number(), help="Of any logit, or probability where files give those; absolute.")
@click.option("--locate", is_flag=True, help="Compare node by node, and name the first that stands out.")
@click.option("--float32", type=click.Path(path_type=Path), metavar="FILE.onnx",
              help="To look into the files.  [default: what their manifests name, beside them]")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page to read and print.")
@click.option("--thumbnails/--no-thumbnails", default=True, show_default=True,
              help="Put small pictures of the changed images into the page.")  # fmt: skip
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE.md", help="Write a summary for a review.")
@click.option("--baseline", "earlier", type=click.Path(path_type=Path), metavar="OLD.json",
              help="What --json printed before: ends with 3 where accuracy or agreement is worse.")  # fmt: skip
@click.option("--batch", type=Count(), default=8, show_default=True, help="Images at a time.")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
def command(
    candidates: tuple[Path, ...], data: Path, reference: Path | None, classes: str | None, max_drop: float | None,
    min_agreement: float | None, max_recall_drop: float | None, max_logit_diff: float | None, locate: bool,
    float32: Path | None, report: Path | None, thumbnails: bool, markdown: Path | None, earlier: Path | None,
    batch: int, seed: int, as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Run every image of DIR through the reference and each CANDIDATE (ONNX files, engines), and compare.

    Ends with 3 where a bound is missed or a logit is not finite; reports are written all the same.
    """
    from hemf import artifacts, locks
    from hemf.errors import CheckFailedError
    from hemf_export import console
    from hemf_export.verify import baseline, scrutiny, verification
    from hemf_export.verify import page as verification_page
    from hemf_export.verify import sheet as verification_sheet
    from hemf_export.verify import text as verification_text
    from hemf_export.verify.bounds import Bounds

    request = verification.Request(
        candidates=candidates, data=data, reference=reference, seed=seed, batch=batch, reading=reading,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
        bounds=Bounds(max_drop, min_agreement, max_recall_drop, max_logit_diff),
        earlier=None if earlier is None else baseline.read(earlier),
    )  # fmt: skip
    click.get_current_context().with_resource(locks.owned(*filter(None, (report, markdown))))
    artifacts.check_outputs(filter(None, (report, markdown)), filter(None, (*candidates, reference, earlier, float32)))
    looking = scrutiny.plan(candidates, float32, nodes=locate)
    bar = console.PhaseBar("Verifying")
    try:
        found = looking.add_to(verification.verify(request, bar.update), bar.update)
    finally:
        bar.stop()
    values: dict[str, Any] = found.to_dict()
    if request.earlier is not None:
        values["baseline"] = request.earlier.compare(values)
        values["passed"] = values["passed"] and values["baseline"]["passed"]
    if report is not None:
        pictures = verification_sheet.thumbnails(found) if thumbnails else {}
        artifacts.write_bytes(report, verification_page.html(values, pictures).encode())
    if markdown is not None:
        artifacts.write_bytes(markdown, verification_text.markdown(values).encode())
    subjects = (found.reference, *(candidate.subject for candidate in found.candidates))
    read = [note for subject in subjects for note in subject.model.notes]
    for note in (*verification_text.doubts(values), *looking.notes, *found.notes, *read):
        console.warn(note)
    problems = verification_text.missed(values)
    if not as_json:
        table = verification_text.rows(values)
        console.table(verification_text.title(values), verification_text.COLUMNS, table, words=(0, 1))
        for text in (*verification_text.first_nodes(values), *verification_text.remarks(values)):
            console.say(text)
    if problems:
        files = "\n  ".join(problems)
        raise CheckFailedError(
            f"{len(problems)} bound{'s' * (len(problems) != 1)} missed:\n  {files}",
            _advice(found, locate),
            values,
        )
    if as_json:
        console.print_json(values, allow_nan=False)
    else:
        console.next_command(*_next(found))


def _advice(found: Verification, located: bool) -> str:
    from hemf_export import model_kind

    if located or not any(model_kind.kind_of(one.subject.path) == "onnx" for one in found.candidates):
        return "Don't ship the file. To allow more, see hemf-export verify --help."
    return "Don't ship the file. --locate names the node where it leaves the float32 one."


def _next(found: Verification) -> tuple[str | Path, ...]:
    from hemf_export import model_kind

    last = found.candidates[-1].subject
    if model_kind.kind_of(last.path) == "onnx" and last.model.precision != "int8-cpu":
        return "hemf-export trt", last.path, *(["--fp16"] if last.model.precision == "fp32" else [])
    return "hemf-export bench", last.path
