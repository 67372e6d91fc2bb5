"""`hemf-export bench`: latency of checkpoints and ONNX files, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hemf.errors import UsageError


@click.command("bench")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--batch", "batches", default=None, metavar="N[,N…]", help="Batch sizes.  [default: 1, or the files' own]"
)
@click.option("--seconds", default=5.0, show_default=True, help="For each batch size, all files together.")
@click.option("--threads", type=int, default=None, help="Of each runner.  [default: the cores that may be used]")
@click.option("--images", type=click.Path(path_type=Path), help="Images to run on.  [default: seeded noise]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    files: tuple[Path, ...],
    batches: str | None,
    seconds: float,
    threads: int | None,
    images: Path | None,
    as_json: bool,
) -> None:
    """Time FILES (a checkpoint and ONNX files made from it) in turn, round after round.

    Without FILES, what lies in the current folder is taken. Nothing is timed whose logits differ from the first's.
    """
    wanted = (batches or "1").split(",")
    if not all(size.strip().isdigit() and int(size) > 0 for size in wanted):
        raise UsageError(f"--batch takes positive numbers, N or N,N, not {batches!r}.")
    sizes = [int(size) for size in wanted]
    if not seconds > 0 or (threads is not None and threads < 1):
        raise UsageError("--seconds and --threads must be positive.")

    import numpy as np
    import torch

    from calibration.session import usable_cores
    from hemf import artifacts
    from hemf_export import bench, console
    from hemf_export.bench_folder import gather
    from hemf_export.parity import Samples, image_folder

    used = threads or usable_cores()
    torch.set_num_threads(used)
    with console.step("Reading the files"):
        field = gather(files, Path(), threads=used)
        pictures = image_folder(images, None)
    if field.batch is not None:
        if batches is not None and sizes != [field.batch]:
            raise UsageError(f"The files have the fixed batch {field.batch}.", "Leave out --batch.")
        sizes = [field.batch]
    timings = []
    for size in sizes:
        samples = Samples(field.preprocess, pictures, size)
        pixels = np.concatenate(list(samples.pixels((size,))))
        pixels = np.concatenate([pixels] * -(-size // len(pixels)))[:size]  # few images serve a large batch in turn
        meter = console.PhaseBar(f"Timing {len(field.contenders)} at batch {size}")
        timings.extend(
            bench.measure(
                field.contenders, pixels, seconds=seconds,
                progress=lambda share, meter=meter: meter.update("rounds", int(100 * share), 100),  # type: ignore[misc]
            )
        )  # fmt: skip
        meter.stop()
    for note in field.notes:
        console.warn(note)
    if as_json:
        values = {"threads": used, "checkpoint_sha256": field.checkpoint_sha256, "versions": artifacts.versions()}
        click.echo(json.dumps({**values, "timings": [timing.to_dict() for timing in timings]}, indent=2))
        return
    rows = [
        (timing.name, str(timing.batch), *(f"{timing.percentile(share):.1f}" for share in bench.PERCENTILES),
         f"{timing.images_per_second:.1f}", f"{timing.ratio[0]:.2f}", f"{timing.ratio[1]:.2f}–{timing.ratio[2]:.2f}",
         f"{timing.max_difference:.1e}")
        for timing in timings
    ]  # fmt: skip
    columns = ("", "batch", *(f"p{share} ms" for share in bench.PERCENTILES), "img/s", "ratio", "95 %", "logit diff")
    console.table(f"CPU, {used} threads, {len(timings[0].latencies_ms)} rounds interleaved", columns, rows)
    console.say("Ratios are to the first line, round by round; only they carry over to another day on this machine.")
