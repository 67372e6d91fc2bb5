"""`hemf-export bench`: latency of checkpoints, ONNX files and engines, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    COUNTS,
    PATH,
    SECONDS,
    Command,
    Count,
    Number,
    images_option,
    json_option,
    page_option,
    reading_options,
)
from hemf_export.files.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from hemf_export.bench.baseline import BaselineComparison
    from hemf_export.bench.report import BenchReport


@click.command("bench", cls=Command)
@click.argument("files", nargs=-1, type=PATH)
@click.option("--batch", "batches", type=COUNTS, help="Batch sizes.  [default: 1,8,32, or the files' own]")
@click.option(
    "--runners", metavar="NAME[,NAME…]",
    help="eager, channels-last, amp, compile, compile-amp, compile-graph; ort-cpu, ort-cuda, ort-tensorrt; engine, "
    "engine-no-graph (without a CUDA graph).  [default: those that gain something here]",
)  # fmt: skip
@click.option(
    "--transfers", type=click.Choice(["in", "out", "both"]), default="in", show_default=True,
    help="Time the copies to the GPU and back, or leave images and logits there.",
)  # fmt: skip
@click.option("--seconds", type=SECONDS, default=30.0, show_default=True, help="At most, for each batch size.")
@click.option(
    "--threads", type=Count(most=4096), help="Of each runner on a CPU.  [default: the cores that may be used]"
)
@images_option("Images to run on.  [default: seeded noise]")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Peak memory, a process a runner.")
@click.option("--target", help="GPU of the roofline.  [default: this machine's, or t4]")
@click.option("-o", "--output", type=PATH, help="Write the JSON there too.")
@click.option("--markdown", type=PATH, help="Write tables for a pull request there.")
@page_option
@click.option("--verified", type=PATH, metavar="VERIFY.json",
              help="What verify --json printed: accuracy beside latency in the reports.")  # fmt: skip
@click.option("--baseline", type=PATH, help="JSON of an earlier run to compare with.")
@click.option(
    "--max-slowdown",
    type=Number(),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Of a ratio, to the baseline.",
)
@reading_options
@json_option()
def command(
    files: tuple[Path, ...], batches: tuple[int, ...] | None, runners: str | None, transfers: Any, seconds: float,
    threads: int | None, images: Path | None, memory: bool, target: str | None, output: Path | None,
    markdown: Path | None, report: Path | None, verified: Path | None, baseline: Path | None, max_slowdown: float,
    as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Time FILES (a checkpoint, ONNX files and engines made from it) in turn, round after round.

    Without FILES, what lies in the current folder is taken. Nothing is timed whose logits differ from the first's. Ends
    with 3 where some do, or where a ratio to the first grew beyond --max-slowdown since the --baseline.
    """
    if verified is not None and not (report or markdown or output or as_json):
        raise UsageError("--verified is for --report, --markdown, -o and --json.")

    from hemf_export.bench import accuracy, lineup, run
    from hemf_export.cli import console, next_step, streams
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.files import artifacts, locks
    from hemf_export.models import discover
    from hemf_export.models.model_file import EngineFile

    request = run.Request(
        files=files, batches=batches, seconds=seconds, threads=threads, images=images,
        kinds=lineup.parse_kinds(runners), transfers=transfers, memory=memory, target=target,
        verified=None if verified is None else accuracy.read(verified), reading=reading,
    )  # fmt: skip
    click.get_current_context().with_resource(locks.owned(*filter(None, (output, markdown, report))))
    artifacts.check_outputs(filter(None, (output, markdown, report)), filter(None, (*files, baseline, verified)))
    found = run.benchmark(request, earlier=baseline, max_slowdown=max_slowdown / 100, progress=ConsoleProgress())
    found.write(json=output, markdown=markdown, html=report)
    for note in found.notes:
        console.warn(note)
    if as_json:
        console.print_json(found.values)
    else:
        _show(found.report, found.compared)
        if found.problem is None:
            timed = [*files] or [file.path for file in (*discover.onnx_files(Path()), *EngineFile.all_in(Path()))]
            next_step.show(timed[-1], "bench", report=output)
    if found.problem is not None:
        streams.say_error(found.problem)
        # Not as an error: that would print a second JSON value. Not with click's exit, whose code is only returned.
        raise SystemExit(CheckFailedError.exit_code)


def _show(report: BenchReport, compared: BaselineComparison | None) -> None:
    from hemf_export.bench import report as bench_report
    from hemf_export.cli import console

    console.result(bench_report.machine(report.conditions), dim=True)
    for batch in dict.fromkeys(timing.batch for timing in report.timings):
        timings = [timing for timing in report.timings if timing.batch == batch]
        rows = [(timing.name, *report.cells(timing)) for timing in timings]
        shares = [len(row) > 1 + len(bench_report.COLUMNS) for row in rows]
        columns = ("", *bench_report.COLUMNS, *(("of floor",) if any(shares) else ()))
        filled = [(*row, *("–",) * (len(columns) - len(row))) for row in rows]
        console.table(f"Batch {batch}, {len(timings[0].latencies_ms)} rounds", columns, filled)
    _show_floors(report)
    if compared is not None:
        columns = ("", "batch", "ratio", "in the baseline", "change", "")
        changes = [
            (change.name, str(change.batch), f"{change.now.median:.2f}", f"{change.before.median:.2f}",
             f"{change.slowdown:+.0%}", change.outcome)
            for change in compared.changes
        ]  # fmt: skip
        console.table("Beside the baseline", columns, changes)
    for names, reason in bench_report.grouped(report.not_run):
        console.say(f"not run: {names}: {reason}")


def _show_floors(report: BenchReport) -> None:
    from hemf_export.bench import report as bench_report
    from hemf_export.cli import console

    if report.floors:
        rows = [bench_report.floor_cells(floor) for floor in report.floors if floor.precision != "fp32"]
        title = f"Floor on a {report.target}: counted operations and bytes over its published rates, not a measurement"
        last = len(bench_report.FLOOR_COLUMNS) - 1
        console.table(title, bench_report.FLOOR_COLUMNS, rows, words=(0, last))
