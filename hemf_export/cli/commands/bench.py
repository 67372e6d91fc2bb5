"""`hemf-export bench`: latency of checkpoints, ONNX files and engines, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import (
    COUNTS,
    PATH,
    SECONDS,
    Command,
    Count,
    Number,
    checkpoint_options,
    images_option,
    json_option,
    page_option,
)
from hemf_export.files.errors import CheckFailedError, UsageError


@click.command("bench", cls=Command)
@click.argument("files", nargs=-1, type=PATH)
@click.option("--batch", "batches", type=COUNTS, help="Batch sizes.  [default: 1,8,32, or the files' own]")
@click.option(
    "--runners", metavar="NAME[,NAME…]",
    help="eager, channels-last, amp, compile, compile-amp, compile-graph; ort-cpu, ort-cuda, ort-tensorrt; engine, "
    "engine-no-graph (without a CUDA graph).  [default: those that are useful on this machine]",
)  # fmt: skip
@click.option(
    "--transfers", type=click.Choice(["in", "out", "both"]), default="in", show_default=True,
    help="Time the copies to the GPU and back, or leave images and logits there.",
)  # fmt: skip
@click.option("--seconds", type=SECONDS, default=30.0, show_default=True, help="Longest time spent on a batch size.")
@click.option(
    "--threads", type=Count(most=4096), help="Threads of a runner on the CPU.  [default: the available cores]"
)
@images_option("Images to run on.  [default: seeded noise]")
@click.option("--memory/--no-memory", default=None, help="Measure each runner's peak memory in its own process.  "
              "[default: where it is shown: --verbose and reports]")  # fmt: skip
@click.option("--target", help="GPU whose floor is computed.  [default: this machine's; without one, t4]")
@click.option("-o", "--output", type=PATH, help="Write the result there as JSON.")
@click.option("--markdown", type=PATH, help="Write the tables there as Markdown.")
@page_option
@click.option("--verified", type=PATH, metavar="VERIFY.json",
              help="Output of verify --json: the reports show accuracy beside latency.")  # fmt: skip
@click.option("--baseline", type=PATH, help="JSON of an earlier run to compare with.")
@click.option(
    "--max-slowdown",
    type=Number(),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Largest slowdown since --baseline, by the ratio to the first runner.",
)
@checkpoint_options
@click.option(
    "--verbose", is_flag=True, help="Show every percentile, memory, floors, runners left out, and the method."
)
@json_option()
def command(
    files: tuple[Path, ...], batches: tuple[int, ...] | None, runners: str | None, transfers: Any, seconds: float,
    threads: int | None, images: Path | None, memory: bool | None, target: str | None, output: Path | None,
    markdown: Path | None, report: Path | None, verified: Path | None, baseline: Path | None, max_slowdown: float,
    verbose: bool, as_json: bool, weights: str | None, image_size: int | None, factory: str | None,
) -> None:  # fmt: skip
    """Time FILES (a checkpoint, ONNX files and engines made from it) side by side, round after round.

    Without FILES, those in the current folder are used. A runner whose logits differ from the first one's is not
    timed. Ends with 3 if there is one, or if a ratio to the first runner grew by more than --max-slowdown since
    --baseline.
    """
    if verified is not None and not (report or markdown or output or as_json):
        raise UsageError("--verified is for --report, --markdown, -o and --json.")

    from hemf_export.cli import console, next_step, streams
    from hemf_export.cli.progress import ConsoleProgress

    if memory is None:
        memory = verbose or as_json or any((output, markdown, report))
    benchmark = hemf_export.benchmark(
        files, batches=batches, runners=None if runners is None else runners.split(","), transfers=transfers,
        seconds=seconds, threads=threads, images=images, memory=memory, target=target, verification=verified,
        baseline=baseline, max_slowdown=max_slowdown, weights=weights, image_size=image_size, factory=factory,
        output=output,
        markdown=markdown, report=report, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in benchmark.notes:
        console.warn(note)
    if as_json:
        console.print_json(benchmark.to_dict())
    else:
        _show(benchmark, verbose)
        if benchmark.passed:
            next_step.show(benchmark.files[-1], "bench", report=output)
    if benchmark.problem is not None:
        streams.say_error(benchmark.problem)
        # Not an error, which would print a second JSON value; not click's exit, which only returns the code.
        raise SystemExit(CheckFailedError.exit_code)


def _show(benchmark: hemf_export.Benchmark, verbose: bool) -> None:
    from hemf_export.cli import console

    for name, text in benchmark.headlines.items():
        console.result(f"{name}: {text}")
    console.result(benchmark.machine, dim=True)
    for table in benchmark.details if verbose else benchmark.tables:
        console.table(f"\n{table.title}", table.columns, table.rows, words=table.words)
    if verbose:
        for names, reason in benchmark.not_run:
            console.say(f"not run: {names}: {reason}")
        console.facts("\nMethod", [(name, str(text)) for name, text in benchmark.to_dict()["method"].items()])
    elif benchmark.not_run:
        console.say("Some runners were left out: --verbose says which, and why.")
