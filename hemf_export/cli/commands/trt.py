"""`hemf-export trt`: an ONNX file or a checkpoint → a proven FP16 or INT8 graph → an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

import hemf_export
from hemf_export.api.defaults import float32_file
from hemf_export.api.graphs import SAY_THE_PRECISION, STRONGLY_TYPED
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Count,
    Number,
    checkpoint_options,
    classes_option,
    golden_option,
    images_option,
    json_option,
    metric_option,
)
from hemf_export.files.errors import UsageError


@click.command("trt", cls=Command)
@click.argument("model", required=False, type=PATH)
@click.option("--fp16", is_flag=True, help="Build in float16, with float32 where float16 is unsafe.")
@click.option(
    "--int8",
    is_flag=True,
    help="Build in INT8 if that is at least 5 % faster within --max-drop, else in FP16; needs --images.",
)
@click.option("--fp32", is_flag=True, help="Build the float32 graph as it is; TensorRT-RTX can't do so for a T4.")
@click.option("-o", "--output", type=PATH, help="Engine to write.  [default: MODEL.PRECISION.TARGET.engine]")
@click.option("--target", default="t4", show_default=True,
              help="t4, rtx-20, a10, l4, a100, a100-80gb, a100-80gb-pcie, l40, l40s, h100, h100-pcie, h200, orin, "
              "or sm_75.")  # fmt: skip
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True,
              help="auto: tensorrt on a GPU of the target's kind, else tensorrt-rtx, which needs none.")  # fmt: skip
@click.option("--batch", multiple=True, metavar="MIN:OPT:MAX",
              help="Batch sizes of an optimization profile; repeat for several.  [default: 1:8:32]")  # fmt: skip
@click.option("--workspace", "workspace_mib", type=Count(), default=2048, show_default=True, metavar="MIB",
              help="Largest scratch memory of a layer.")  # fmt: skip
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="TensorRT's builder optimization level: higher builds longer, and may run faster.",
)
@click.option("--hardware-compatible/--no-hardware-compatible", default=None,
              help="TensorRT: build for all GPUs of the compute capability, or for this model alone, which may be "
              "faster.  [default: for this model alone if it is the target]")  # fmt: skip
@click.option("--version-compatible", is_flag=True, help="Let later versions of TensorRT run the engine; not for "
              "TensorRT-RTX, nor with --strip-weights.")  # fmt: skip
@click.option(
    "--strip-weights",
    "stripped",
    is_flag=True,
    help="Leave out the weights; the engine takes them from the ONNX file beside it.",
)
@click.option("--timing-cache/--no-timing-cache", default=True, show_default=True,
              help="TensorRT: take kernel timings of earlier builds, and keep them for the next.")  # fmt: skip
@click.option("--tune", is_flag=True, help="Try each graph pass, and keep those that help: timed on the target's GPU "
              "if it is here, else by the model of the compiled kernels.")  # fmt: skip
@golden_option("Number of golden images kept beside the engine for self-test; 0 for none.")
@images_option("Images to measure ranges and to prove the graph on.  "
               "[default: fp16 by structure, proven on seeded noise]")  # fmt: skip
@click.option("--samples", type=Count(), help="fp16: largest number of held-out images.  [default: 64]")
@click.option("--max-logit-diff", type=Number(), default=None,
              help="fp16: largest difference of a logit.  [default: 0.05, or 1 % of the largest logit]")  # fmt: skip
@click.option("--min-agreement", type=SHARE, default=None,
              help="Smallest share of images that keep their class.  [default: fp16 0.99, but one image]")  # fmt: skip
@click.option("--max-drop", type=POINTS, default=None, metavar="POINTS",
              help="int8: largest drop of --metric on held-out images.  [default: 0.5]")  # fmt: skip
@metric_option
@click.option("--method", type=click.Choice(["auto", "max", "entropy", "percentile", "mse"]), default="auto",
              show_default=True, help="int8: how ranges are derived; auto tries all methods.")  # fmt: skip
@click.option("--strict-precision", is_flag=True,
              help="Refuse an engine that computes INT8 products of the graph in another type.")  # fmt: skip
@classes_option()
@checkpoint_options
@click.option("--force", is_flag=True,
              help="Make graph and engine again, and replace files made with other options.")  # fmt: skip
@json_option()
def command(
    model: Path | None, fp16: bool, int8: bool, fp32: bool, output: Path | None, target: str, backend: Any,
    batch: tuple[str, ...], golden: int, tune: bool, images: Path | None, samples: int | None,
    max_logit_diff: float | None, min_agreement: float | None, max_drop: float | None, metric: Any, method: Any,
    strict_precision: bool, classes: tuple[str, ...] | None, force: bool, as_json: bool, weights: str | None,
    image_size: int | None, factory: str | None,
    **build_options: Any,
) -> None:  # fmt: skip
    """Build a TensorRT engine from MODEL, an ONNX file or a checkpoint, which is exported first.

    Without MODEL, the only float32 ONNX file in the current folder is used. --fp16 and --int8 first make a graph of
    that precision and prove it against the float32 one in ONNX Runtime: a missed bound ends with 3, and nothing is
    built. A graph that calibrate made is built as it is if MODEL names it, or if it was made from MODEL with the
    same options. A file made with other options is never replaced without --force (exit code 1).

    The compiled kernels are counted, and their types compared with the graph's. With --strict-precision, an INT8
    product that the engine computes in another type ends with 3, and nothing is written.
    """
    if fp16 + int8 + fp32 > 1:
        raise UsageError("--fp16, --int8 and --fp32 exclude each other: INT8 engines compute the rest in FP16.")
    precision: Literal["fp16", "int8", "fp32"] | None = "fp16" if fp16 else "int8" if int8 else "fp32" if fp32 else None
    if model is None and precision is None:
        raise UsageError(SAY_THE_PRECISION, STRONGLY_TYPED)

    from hemf_export.cli import calibration_report, console, next_step
    from hemf_export.cli.progress import ConsoleProgress

    if model is None:
        model = float32_file()
        console.say(f"Taking {model.name}, the ONNX file of ours in this folder.")
    engine = hemf_export.build_engine(
        model, output, precision=precision, images=images, target=target, backend=backend, batches=batch,
        golden=golden, max_logit_difference=max_logit_diff, min_agreement=min_agreement, max_drop=max_drop,
        metric=metric, method=method, samples=samples, tune=tune, strict_precision=strict_precision, classes=classes,
        weights=weights, image_size=image_size, factory=factory, force=force,
        progress=ConsoleProgress(calibration_report.SearchSteps()), **build_options,
    )  # fmt: skip
    for note in engine.notes:
        console.warn(note)
    if as_json:
        console.print_json(engine.summary())
        return
    console.facts(str(engine.path), calibration_report.engine_rows(engine))
    next_step.show(engine.graph.path, "trt", target=engine.manifest["target"], images=images)
