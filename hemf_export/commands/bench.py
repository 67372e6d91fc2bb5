"""`hemf-export bench`: latency of checkpoints, ONNX files and engines, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf.errors import UsageError
from hemf.reading import Reading
from hemf_export.commands.checkpoint_options import reading_options
from hemf_export.number_options import SECONDS, Count, Number, whole_numbers

if TYPE_CHECKING:
    from hemf_export.bench.baseline import Comparison
    from hemf_export.bench.report import BenchReport

FAILED = 3


@click.command("bench")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--batch", "batches", metavar="N[,N…]", help="Batch sizes.  [default: 1,8,32, or the files' own]")
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
@click.option("--images", type=click.Path(path_type=Path), help="Images to run on.  [default: seeded noise]")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Peak memory, a process a runner.")
@click.option("--target", help="GPU of the roofline.  [default: this machine's, or t4]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON there too.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write tables for a pull request there.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page to read and print.")
@click.option("--verified", type=click.Path(path_type=Path), metavar="VERIFY.json",
              help="What verify --json printed: accuracy beside latency in the reports.")  # fmt: skip
@click.option("--baseline", type=click.Path(path_type=Path), help="JSON of an earlier run to compare with.")
@click.option(
    "--max-slowdown",
    type=Number(),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Of a ratio, to the baseline.",
)
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    files: tuple[Path, ...], batches: str | None, runners: str | None, transfers: Any, seconds: float,
    threads: int | None, images: Path | None, memory: bool, target: str | None, output: Path | None,
    markdown: Path | None, report: Path | None, verified: Path | None, baseline: Path | None, max_slowdown: float,
    as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Time FILES (a checkpoint, ONNX files and engines made from it) in turn, round after round.

    Without FILES, what lies in the current folder is taken. Nothing is timed whose logits differ from the first's. Ends
    with 3 where some do, or where a ratio to the first grew beyond --max-slowdown since the --baseline.
    """
    sizes = None if batches is None else whole_numbers("--batch", batches)
    if verified is not None and not (report or markdown or output or as_json):
        raise UsageError("--verified is for --report, --markdown, -o and --json.")

    from hemf import artifacts, locks
    from hemf_export import console, streams
    from hemf_export.bench import accuracy, accuracy_section, lineup
    from hemf_export.bench import baseline as bench_baseline
    from hemf_export.bench import page as bench_page
    from hemf_export.bench import run as bench_run

    known = None if verified is None else accuracy.read(verified)
    request = bench_run.Request(
        files=files, batches=sizes, seconds=seconds, threads=threads, images=images,
        kinds=lineup.parse_kinds(runners), transfers=transfers, memory=memory, target=target, verified=known,
        reading=reading,
    )  # fmt: skip
    earlier = None if baseline is None else bench_baseline.read(baseline)
    click.get_current_context().with_resource(locks.owned(*filter(None, (output, markdown, report))))
    artifacts.check_outputs(filter(None, (output, markdown, report)), filter(None, (*files, baseline, verified)))
    meter = console.PhaseBar("Timing")
    try:
        found = bench_run.run(request, lambda what, share: meter.update(what, int(100 * share), 100))
    finally:
        meter.stop()
    values = found.to_dict()
    if known is not None:
        values["verified"] = known.beside(values["timings"])
    compared = None
    if earlier is not None:
        compared = bench_baseline.compare(earlier, values, max_slowdown=max_slowdown / 100)
        values["baseline"] = {
            "file": str(baseline), "max_slowdown": max_slowdown / 100, "notes": list(compared.notes),
            "changes": [change.to_dict() for change in compared.changes],
        }  # fmt: skip
    problem = _problem(found, compared, max_slowdown)
    if problem is not None:
        values |= {"error": problem, "hint": None, "exit_code": FAILED}
    if output is not None:
        artifacts.write_json(output, values)
    if markdown is not None:
        text = found.markdown() + accuracy_section.markdown(values) + (compared.markdown() if compared else "")
        artifacts.write_bytes(markdown, text.encode())
    if report is not None:
        artifacts.write_bytes(report, bench_page.html(values).encode())
    for note in (*found.notes, *(compared.notes if compared else ())):
        console.warn(note)
    if as_json:
        console.print_json(values)
    else:
        _show(found, compared)
        _next(files, batches, output)
    if problem is not None:
        streams.say_error(problem)
        # Not as an error: that would print a second JSON value. Not with click's exit, whose code is only returned.
        raise SystemExit(FAILED)


def _problem(report: BenchReport, compared: Comparison | None, max_slowdown: float) -> str | None:
    """What a check found, in a sentence."""
    said = [f"{missing.name} at batch {missing.batch}: {missing.reason}" for missing in report.failures]
    for change in compared.worse if compared else ():
        said.append(
            f"{change.name} at batch {change.batch} is {change.slowdown:.0%} slower than in the baseline, by its "
            f"ratio (allowed {max_slowdown:g} %)."
        )
    return " ".join(said) or None


def _show(report: BenchReport, compared: Comparison | None) -> None:
    from hemf_export import console
    from hemf_export.bench import report as bench_report

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
    from hemf_export import console
    from hemf_export.bench import report as bench_report

    if report.floors:
        rows = [bench_report.floor_cells(floor) for floor in report.floors if floor.precision != "fp32"]
        title = f"Floor on a {report.target}: counted operations and bytes over its published rates, not a measurement"
        last = len(bench_report.FLOOR_COLUMNS) - 1
        console.table(title, bench_report.FLOOR_COLUMNS, rows, words=(0, last))


def _next(files: tuple[Path, ...], batches: str | None, output: Path | None) -> None:
    from hemf_export import console

    more = ("-o", Path("bench.json")) if output is None else ("--baseline", output)
    console.next_command("hemf-export bench", *files, *(("--batch", batches) if batches else ()), *more)
