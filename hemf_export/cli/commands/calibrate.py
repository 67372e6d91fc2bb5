"""`hemf-export calibrate`: a float32 ONNX file and images → an FP16 or INT8 file that keeps to a bound or a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
from hemf_export.files.errors import UsageError


@click.command("calibrate", cls=Command)
@click.argument("model", type=PATH)
@click.option("--precision", type=click.Choice(["fp16", "int8"]), required=True)
@images_option("Real images: a data folder (calibrates on train/, judges on val/), or class folders.", required=True)
@click.option("-o", "--output", type=PATH, help="The file.  [default: MODEL.PRECISION.onnx]")
@click.option("--held-out", type=PATH, help="Other images to judge on.")
@click.option("--count", type=Count(), default=512, show_default=True, help="Calibration images, at most.")
@click.option("--judges", type=Count(), help="Held-out images, at most.  [default: 64; for a budget 512]")
@seed_option("the choice of images")
@click.option("--allow-single-class", is_flag=True, help="Calibrate on images of one class only.")
@click.option("--method", type=click.Choice(["auto", "max", "entropy", "percentile", "mse"]), default="auto",
              show_default=True, help="int8: how a range is taken; auto tries all.")  # fmt: skip
@click.option("--max-drop", type=POINTS, metavar="POINTS",
              help="Largest loss: int8 takes the fastest engine within it, fp16 must keep to it.")  # fmt: skip
@metric_option
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="Least share of images that keep their class.")
@click.option("--sensitivity", is_flag=True, help="int8: measure every block alone and left out, without a budget too.")
@click.option("--for", "form", type=click.Choice(["auto", "tensorrt-rtx", "tensorrt", "cpu"]), default="auto",
              show_default=True, help="The backend whose kernels the graph is brought to; auto: as trt would choose "
              "here for the target; cpu: the INT8 graph that ONNX Runtime runs fast.")  # fmt: skip
@click.option("--target", default="t4", show_default=True,
              help="GPU, or compute capability (sm_86), that the engine is for.")  # fmt: skip
@click.option("--batch", type=Count(), default=8, show_default=True,
              help="Images a call that engines are compared at; a file with a fixed batch has its own.")  # fmt: skip
@click.option(
    "--max-logit-diff", type=Number(),
    help="fp16.  [default: 0.05, or 1 % of the largest logit; of a probability 0.025]",
)  # fmt: skip
@click.option("--mean", type=CHANNELS, help="Of a file that isn't ours.  [default: 0.5,0.5,0.5]")
@click.option("--std", type=CHANNELS, help="The same.")
@click.option("--preprocess", "mode", type=click.Choice(["crop", "squash"]), help="The same.  [default: crop]")
@click.option(
    "--classes", type=NAMES, help="The same: a,b,c; of a single output two, the one that a low number stands for first."
)
@click.option("--gives", type=click.Choice(["logits", "probabilities"]),
              help="The same: what its output is, where the graph doesn't tell.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that was made from another one or with other options.")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Keep and use earlier results.")
@json_option("manifest")
def command(
    model: Path, precision: Any, images: Path, output: Path | None, held_out: Path | None, count: int,
    judges: int | None, seed: int, allow_single_class: bool, method: Any, max_drop: float | None, metric: Any,
    min_agreement: float | None, sensitivity: bool, form: Any, target: str, batch: int,
    max_logit_diff: float | None, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None,
    mode: Any, classes: tuple[str, ...] | None, gives: Any, force: bool, cache: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make an FP16 or INT8 file of MODEL, a float32 ONNX file, whose accuracy on your images is known.

    fp16: float32 stays where the ranges measured on your images ask for it. int8: with --max-drop or --min-agreement,
    the blocks that make the engine for --target faster in INT8, as many as keep to it on held-out images, or FP16 where
    that is not 5 % faster; without, everything. Ends with 3 where no graph keeps its bound, and with 1
    where a file of that name was made from another one or with other options.
    """
    if form == "cpu" and precision != "int8":
        raise UsageError("--for cpu is of --precision int8: a CPU gains nothing from FP16.")
    int8_only = {"--sensitivity": sensitivity, "--method": method != "auto"}
    if precision == "fp16" and any(int8_only.values()):
        raise UsageError(f"{next(name for name, given in int8_only.items() if given)} is of --precision int8.")
    if precision == "int8" and max_logit_diff is not None:
        raise UsageError("--max-logit-diff is of --precision fp16; int8 has --max-drop and --min-agreement.")

    from hemf_export.calibration.budget import Budget
    from hemf_export.cli import calibration_report, console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.engines import backends, targets
    from hemf_export.files import artifacts
    from hemf_export.models.graph_source import Assumptions
    from hemf_export.precision import quantize
    from hemf_export.precision.bounds import Bounds
    from hemf_export.precision.trial_engine import Compiler

    gpu = targets.find(target)
    budget = None
    if max_drop is not None or (precision == "int8" and min_agreement is not None):
        budget = Budget(max_drop, min_agreement if precision == "int8" else None, metric)
    request = quantize.Request(
        source=model, precision=precision, images=images, output=output, held_out=held_out, count=count,
        judges=judges, seed=seed, allow_single_class=allow_single_class, method=method, budget=budget,
        with_sensitivity=sensitivity, compiler=Compiler(
            backends.choose("auto", gpu) if form == "auto" else form, gpu, batch
        ),
        bounds=Bounds(max_logit_diff, min_agreement if precision == "fp16" else None),
        assumptions=Assumptions(
            mean, std, mode, classes, gives
        ),
        cache=artifacts.cache_folder() if cache else None, force=force,
    )  # fmt: skip
    made = quantize.make(request, ConsoleProgress(calibration_report.SearchSteps()))
    for note in made.notes:
        console.warn(note)
    if as_json:
        console.print_json({**made.manifest, "file": str(made.path)})
        return
    calibration_report.show(made, budget, gpu.name)
