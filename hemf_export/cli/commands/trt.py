"""`hemf-export trt`: an ONNX file or a checkpoint → a proven FP16 or INT8 graph → an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Count,
    Number,
    classes_option,
    golden_option,
    images_option,
    json_option,
    metric_option,
    reading_options,
)
from hemf_export.files.errors import UsageError

if TYPE_CHECKING:
    from hemf_export.engines.build import Engine
    from hemf_export.precision.build_engine import BuiltEngine


@click.command("trt", cls=Command)
@click.argument("model", required=False, type=PATH)
@click.option("--fp16", is_flag=True, help="Build in float16, with float32 islands where that is not safe.")
@click.option(
    "--int8",
    is_flag=True,
    help="Build in INT8 where that is 5 % faster within --max-drop, else in FP16; needs --images.",
)
@click.option("--fp32", is_flag=True, help="Build the float32 graph as it is; TensorRT-RTX can't for a T4.")
@click.option("-o", "--output", type=PATH, help="The engine.  [default: MODEL.PRECISION.TARGET.engine]")
@click.option("--target", "target_name", default="t4", show_default=True,
              help="t4, rtx-20, a10, l4, a100, l40s, h100, h200, orin, or sm_75.")  # fmt: skip
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True,
              help="auto: tensorrt on a GPU of the target's kind, else tensorrt-rtx, which needs none.")  # fmt: skip
@click.option("--batch", multiple=True, metavar="MIN:OPT:MAX",
              help="Batch sizes of the engine; several make several profiles.  [default: 1:8:32]")  # fmt: skip
@click.option("--workspace", "workspace_mib", type=Count(), default=2048, show_default=True, metavar="MIB",
              help="Limit of a layer's scratch memory.")  # fmt: skip
@click.option("--optimization-level", type=click.IntRange(0, 5), help="How long to search for the fastest kernels.")
@click.option("--version-compatible", is_flag=True, help="Later versions of TensorRT run it too; not TensorRT-RTX.")
@click.option("--strip-weights", "stripped", is_flag=True, help="Without weights: the ONNX file beside it gives them.")
@click.option("--timing-cache/--no-timing-cache", default=True, show_default=True,
              help="Keep kernels' times for the next build (TensorRT).")  # fmt: skip
@click.option("--tune", is_flag=True, help="Try each pass of the graph's form: timed on the target's GPU where it is "
              "here, else by the model of what is compiled.")  # fmt: skip
@golden_option("Images kept beside the engine, to test it with on its target; 0 for none.")
@images_option("Images: ranges are measured on some, others prove the graph.  "
               "[default: fp16 by structure, proven on seeded noise]")  # fmt: skip
@click.option("--samples", type=Count(), help="fp16: at most so many held-out images prove it.  [default: 64]")
@click.option("--max-logit-diff", type=Number(), default=None,
              help="fp16: against float32.  [default: 0.05, or 1 % of the largest logit]")  # fmt: skip
@click.option("--min-agreement", type=SHARE, default=None,
              help="Share of images that keep their class.  [default: fp16 0.99 but for one image]")  # fmt: skip
@click.option("--max-drop", type=POINTS, default=None, metavar="POINTS",
              help="int8: of the metric, on held-out images.  [default: 0.5]")  # fmt: skip
@metric_option
@click.option("--method", type=click.Choice(["auto", "max", "entropy", "percentile", "mse"]), default="auto",
              show_default=True, help="int8: how a range is taken.")  # fmt: skip
@click.option("--strict-precision", is_flag=True,
              help="Refuse an engine that computes what the graph has in INT8 in another type.")  # fmt: skip
@classes_option()
@reading_options
@click.option("--force", is_flag=True,
              help="Make graph and engine anew, and replace files that were made otherwise.")  # fmt: skip
@json_option()
def command(
    model: Path | None, fp16: bool, int8: bool, fp32: bool, output: Path | None, target_name: str, backend: Any,
    batch: tuple[str, ...], golden: int, tune: bool, images: Path | None, samples: int | None,
    max_logit_diff: float | None, min_agreement: float | None, max_drop: float | None, metric: Any, method: Any,
    strict_precision: bool, classes: tuple[str, ...] | None, force: bool, as_json: bool, reading: Reading,
    **build_options: Any,
) -> None:  # fmt: skip
    """Build a TensorRT engine from MODEL: an ONNX file of ours, or a checkpoint, which is exported first.

    Without MODEL, the one float32 ONNX file of ours in the current folder is taken. The FP16 or INT8 graph is proven
    against the float32 one in ONNX Runtime before anything is built; ends with 3 where it misses a bound. An FP16 or
    INT8 file that calibrate made is built as it is: where it is named, without --fp16 or --int8, and where --fp16 or
    --int8 would write it and it was made from this very MODEL, with the options that are named, if any. Where a file
    that was made otherwise would be replaced, nothing is done (1). The kernels that were compiled are
    counted, and their types compared with the graph's: with --strict-precision a product in INT8 that the engine
    computes otherwise ends with 3, and nothing is written.
    """
    from hemf_export.engines import targets
    from hemf_export.engines.batches import BatchProfile
    from hemf_export.engines.options import BuildOptions

    if fp16 + int8 + fp32 > 1:
        raise UsageError("--fp16, --int8 and --fp32 exclude each other: INT8 engines compute the rest in FP16.")
    if not (fp16 or int8 or fp32) and (model is None or _is_checkpoint(model)):
        raise UsageError(
            "Say the precision: --fp16, or --int8 --images DIR, or --fp32.",
            "Engines are strongly typed: their precision is that of the graph.",
        )
    if int8 and images is None:
        raise UsageError("--int8 needs real images: --images DIR.", "Its ranges and its accuracy are taken from them.")
    if int8 and max_logit_diff is not None:
        raise UsageError("--max-logit-diff is of --fp16; --int8 has --max-drop and --min-agreement.")
    if not int8 and (max_drop is not None or method != "auto"):
        raise UsageError(f"{'--max-drop' if max_drop is not None else '--method'} is of --int8.")
    if tune and not (fp16 or int8):
        raise UsageError("--tune chooses the form of the graph that --fp16 or --int8 makes.", "Say one of them.")
    target = targets.find(target_name)
    options = BuildOptions(**build_options)
    profiles = tuple(BatchProfile.parse(text) for text in batch)

    from hemf_export.calibration.budget import Budget
    from hemf_export.cli import calibration_report, console, next_step
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.files import artifacts
    from hemf_export.models.discover import the_float32_file
    from hemf_export.pages import census_text
    from hemf_export.precision import build_engine
    from hemf_export.precision.bounds import Bounds
    from hemf_export.precision.build_engine import Wanted

    if model is None:
        model = the_float32_file(Path())
        console.say(f"Taking {model.name}, the ONNX file of ours in this folder.")
    wanted = Wanted(
        precision="fp16" if fp16 else "int8" if int8 else "fp32" if fp32 else None,
        images=images,
        samples=samples,
        bounds=Bounds(max_logit_diff, min_agreement),
        budget=Budget(0.5 if max_drop is None else max_drop, min_agreement, metric),
        method=method,
        cache=artifacts.cache_folder(),
    )
    request = build_engine.Request(
        model=model, output=output, target=target, backend=backend, profiles=profiles, options=options, golden=golden,
        wanted=wanted,
        classes=classes, reading=reading, strict_precision=strict_precision, tune=tune, force=force,
    )  # fmt: skip
    done = build_engine.make(request, ConsoleProgress(calibration_report.SearchSteps()))
    for note in done.notes:
        console.warn(note)
    if as_json:
        console.print_json({**census_text.without_lists(done.engine.manifest), "file": str(done.engine.path)})
        return
    rows = [
        ("engine", _built(done.engine)),
        ("built by", f"{done.engine.backend} {done.engine.version} for {target.name} ({target.sm})"),
        ("batches", ", ".join(done.engine.manifest["build"]["profiles"])),
        *_compiled(done),
    ]
    console.facts(str(done.engine.path), rows)
    next_step.show(done.graph.path, "trt", target=target.name, images=images)


def _is_checkpoint(model: Path) -> bool:
    from hemf_export.models.model_file import ModelFile

    return ModelFile.open(model).kind == "checkpoint"


def _compiled(done: BuiltEngine) -> list[tuple[str, str]]:
    """What was compiled, then what is known of the graph; of the work in INT8 the engine's share alone."""
    from hemf_export.cli import calibration_report
    from hemf_export.pages import census_text
    from hemf_export.precision import compiled_precision

    graph = done.graph
    rows = calibration_report.graph_rows(graph.path, graph.description, graph.proof, graph.manifest)
    if done.precision is not None:
        text = compiled_precision.work(done.precision.to_dict())
        rows = [row for row in rows if row[0] != compiled_precision.INT8_WORK]
        rows.insert(0, (compiled_precision.INT8_WORK, text))
    if done.engine.census is not None:
        rows.insert(0, ("compiled to", census_text.line(done.engine.census.summary())))
    return rows


def _built(engine: Engine) -> str:
    from hemf_export.cli import console

    peak = engine.manifest["build_peak_memory_bytes"]
    memory = f", {console.size(peak)} of memory" if peak else ""
    return f"{console.size(engine.path.stat().st_size)}, {engine.seconds:.0f} s to build{memory}"
