"""`hemf-export verify`: is this file the model that was validated, image by image?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hemf_export.number_options import POINTS, SHARE, Count, Number, Seed


@click.command("verify")
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE…", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="Images: a data folder (test/, else val/), class folders, or images without labels.")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), metavar="CKPT",
              help="What they must equal.  [default: the checkpoint they are from, beside them]")  # fmt: skip
@click.option("--classes", help="Class names a,b,c for a reference that has none.")
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Of accuracy.  [default: by precision]")
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Least share of images that keep their class.")
@click.option("--max-recall-drop", type=POINTS, metavar="POINTS", help="Of any class.")
@click.option("--max-logit-diff", type=Number(), help="Of any logit, absolute.")
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
    batch: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Run every image of DIR through the reference and each CANDIDATE (ONNX files, engines), and compare.

    Ends with 3 where a bound is missed or a logit is not finite; reports are written all the same.
    """
    from hemf import artifacts
    from hemf.errors import CheckFailedError
    from hemf_export import console
    from hemf_export.verify import baseline, scrutiny, verification
    from hemf_export.verify import page as verification_page
    from hemf_export.verify import sheet as verification_sheet
    from hemf_export.verify import text as verification_text
    from hemf_export.verify.bounds import Bounds

    request = verification.Request(
        candidates=candidates, data=data, reference=reference, seed=seed, batch=batch,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
        bounds=Bounds(max_drop, min_agreement, max_recall_drop, max_logit_diff),
        earlier=None if earlier is None else baseline.read(earlier),
    )  # fmt: skip
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
    for note in (*looking.notes, *(note for subject in (found.reference, *(c.subject for c in found.candidates))
                           for note in subject.model.notes)):  # fmt: skip
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
            _advice(candidates, locate),
            values,
        )
    if as_json:
        console.print_json(values, allow_nan=False)
    else:
        console.next_command(*_next(candidates))


def _advice(candidates: tuple[Path, ...], located: bool) -> str:
    if located or not any(path.suffix == ".onnx" for path in candidates):
        return "Don't ship the file. To allow more, see hemf-export verify --help."
    return "Don't ship the file. --locate names the node where it leaves the float32 one."


def _next(candidates: tuple[Path, ...]) -> tuple[str | Path, ...]:
    last = candidates[-1]
    if last.suffix == ".onnx" and not last.name.endswith(".int8-cpu.onnx"):
        is_float32 = not last.name.endswith((".fp16.onnx", ".int8.onnx"))
        return "hemf-export trt", last, *(["--fp16"] if is_float32 else [])
    return "hemf-export bench", last
