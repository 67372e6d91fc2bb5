"""`hemf-export calibrate`: a float32 ONNX file and images → an FP16 or INT8 file that keeps to a bound or a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import (
    CHANNELS,
    NAMES,
    PATH,
    POINTS,
    SHARE,
    Command,
    Count,
    Number,
    images_option,
    json_option,
    metric_option,
    seed_option,
)


@click.command("calibrate", cls=Command)
@click.argument("model", type=PATH)
@click.option("--precision", type=click.Choice(["fp16", "int8"]), required=True)
@images_option("Real images: a data folder (train/ calibrates, val/ is held out), or class folders.", required=True)
@click.option("-o", "--output", type=PATH, help="File to write.  [default: MODEL.PRECISION.onnx]")
@click.option("--held-out", type=PATH, help="Held-out images, where they are elsewhere.")
@click.option("--count", type=Count(), default=512, show_default=True, help="Largest number of calibration images.")
@click.option(
    "--held-out-count", type=Count(), help="Largest number of held-out images.  [default: 64, or 512 with a budget]"
)
@click.option("--judges", "earlier_held_out_count", type=Count(), hidden=True)  # the option's earlier name
@seed_option("the choice of images")
@click.option("--allow-single-class", is_flag=True, help="Allow calibration images of one class only.")
@click.option("--method", type=click.Choice(["auto", "max", "entropy", "percentile", "mse"]), default="auto",
              show_default=True, help="int8: how ranges are derived; auto tries all methods.")  # fmt: skip
@click.option("--max-drop", type=POINTS, metavar="POINTS",
              help="Largest drop of --metric: int8 takes the fastest engine within it, fp16 keeps to it.")  # fmt: skip
@metric_option
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Smallest share of images that keep their class.")
@click.option(
    "--sensitivity", is_flag=True, help="int8: measure the sensitivity of every block, even without a budget."
)
@click.option("--for", "form", type=click.Choice(["auto", "tensorrt-rtx", "tensorrt", "cpu"]), default="auto",
              show_default=True, help="Backend that the graph is optimized for; auto: the one that trt would choose; "
              "cpu: an INT8 graph that ONNX Runtime runs fast.")  # fmt: skip
@click.option("--target", default="t4", show_default=True,
              help="GPU or compute capability (sm_86) that the engine is for.")  # fmt: skip
@click.option("--batch", type=Count(), default=8, show_default=True,
              help="Batch size at which engines are compared, unless the file has a fixed one.")  # fmt: skip
@click.option(
    "--max-logit-diff", type=Number(),
    help="fp16: largest difference of a logit.  [default: 0.05 or 1 % of the largest logit; 0.025 for probabilities]",
)  # fmt: skip
@click.option(
    "--mean", type=CHANNELS, help="Mean of the normalization, for other exporters' files.  [default: 0.5,0.5,0.5]"
)
@click.option("--std", type=CHANNELS, help="Standard deviation, likewise.  [default: 0.5,0.5,0.5]")
@click.option(
    "--preprocess",
    "mode",
    type=click.Choice(["crop", "squash"]),
    help="How images are resized, for other exporters' files.  [default: crop]",
)
@click.option(
    "--classes",
    type=NAMES,
    help="Class names of other exporters' files; for a single output two, the negative class first.",
)
@click.option("--gives", type=click.Choice(["logits", "probabilities"]),
              help="What another exporter's file outputs, where the graph doesn't show it.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that was made from another one or with other options.")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Reuse results of earlier runs.")
@json_option("manifest")
def command(
    model: Path, precision: Any, images: Path, output: Path | None, held_out: Path | None, count: int,
    held_out_count: int | None, earlier_held_out_count: int | None, seed: int, allow_single_class: bool, method: Any,
    max_drop: float | None, metric: Any,
    min_agreement: float | None, sensitivity: bool, form: Any, target: str, batch: int,
    max_logit_diff: float | None, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None,
    mode: Any, classes: tuple[str, ...] | None, gives: Any, force: bool, cache: bool, as_json: bool,
) -> None:  # fmt: skip
    """Convert MODEL, a float32 ONNX file, to FP16 or INT8, with an accuracy that is known on your images.

    fp16: nodes whose measured ranges need it stay in float32. int8: with --max-drop or --min-agreement, the blocks
    that make the engine for --target faster are quantized, as many as the budget allows on held-out images; if the
    engine is not at least 5 % faster then, the result is FP16. Without a budget everything is quantized.

    Ends with 3 if every graph misses its bound, and with 1 if the file exists and was made with other options.
    """
    from hemf_export.cli import calibration_report, console
    from hemf_export.cli.progress import ConsoleProgress

    file = hemf_export.quantize(
        model, images, output, precision=precision, max_drop=max_drop, min_agreement=min_agreement, metric=metric,
        max_logit_difference=max_logit_diff, form=form, target=target, batch=batch, held_out=held_out, count=count,
        held_out_count=held_out_count or earlier_held_out_count, seed=seed, allow_single_class=allow_single_class,
        method=method, sensitivity=sensitivity,
        mean=mean, std=std, preprocess=mode, classes=classes, gives=gives, force=force, cache=cache,
        progress=ConsoleProgress(calibration_report.SearchSteps()),
    )  # fmt: skip
    for note in file.notes:
        console.warn(note)
    if as_json:
        console.print_json({**file.manifest, "file": str(file.path)})
        return
    calibration_report.show(file, images)
