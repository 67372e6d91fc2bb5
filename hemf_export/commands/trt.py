"""`hemf-export trt`: an ONNX file or a checkpoint → a proven float16 graph → an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hemf.errors import UsageError


@click.command("trt")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--fp16", is_flag=True, help="Build in float16, with float32 islands where that is not safe.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The engine.  [default: MODEL.fp16.TARGET.engine]"
)
@click.option("--target", "target_name", default="t4", show_default=True, help="t4, a100, a10, l4, or sm_75.")
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True,
              help="auto: tensorrt on a GPU of the target's kind, else tensorrt-rtx, which needs none.")  # fmt: skip
@click.option("--batch", default=None, metavar="MIN:OPT:MAX", help="Batch sizes of the engine.  [default: 1:8:32]")
@click.option("--images", type=click.Path(path_type=Path), help="Images to prove on.  [default: seeded noise]")
@click.option("--samples", default=64, show_default=True, help="At most so many of the images.")
@click.option("--max-logit-diff", type=float, default=None,
              help="float16 against float32.  [default: 0.05, or 1 % of the largest logit]")  # fmt: skip
@click.option("--min-agreement", type=float, default=None,
              help="Share of images that keep their class.  [default: 0.99, one image apart]")  # fmt: skip
@click.option("--classes", help="Class names a,b,c for a checkpoint that has none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: Path | None, fp16: bool, output: Path | None, target_name: str, backend: Any, batch: str | None,
    images: Path | None, samples: int, max_logit_diff: float | None, min_agreement: float | None, classes: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Build a TensorRT engine from MODEL: an ONNX file of ours, or a checkpoint, which is exported first.

    Without MODEL, the one float32 ONNX file of ours in the current folder is taken. The float16 graph is proven
    against the float32 one in ONNX Runtime before anything is built; ends with 3 where it misses a bound.
    """
    from engines import targets
    from engines.batches import BatchProfile

    if not fp16:
        raise UsageError(
            "Say the precision: --fp16.", "Engines are strongly typed: their precision is that of the graph."
        )
    target = targets.find(target_name)
    profile = BatchProfile.parse(batch) if batch else None
    if samples < 1:
        raise UsageError("--samples must be at least 1.")

    from hemf_export import console, trt_engine
    from hemf_export.discover import the_float32_file
    from hemf_export.fp16 import Bounds

    if model is None:
        model = the_float32_file(Path())
        console.say(f"Taking {model.name}, the ONNX file of ours in this folder.")
    request = trt_engine.Request(
        model=model, output=output, target=target, backend=backend, profile=profile, images=images, samples=samples,
        bounds=Bounds(max_logit_diff, min_agreement),
        classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
    )  # fmt: skip
    bar = console.PhaseBar("Building the engine")
    try:
        done = trt_engine.make(request, step=console.step, progress=bar.update)
    finally:
        bar.stop()
    for note in done.notes:
        console.warn(note)
    if as_json:
        click.echo(json.dumps({"file": str(done.engine.path), **done.engine.manifest}, indent=2))
        return
    proof, converted = done.half.parity, done.half.conversion
    accuracy = "" if proof.accuracy is None else f", accuracy {proof.accuracy[0]:.2%} (float32 {proof.accuracy[1]:.2%})"
    rows = [
        ("engine", f"{console.size(done.engine.path.stat().st_size)}, {done.engine.seconds:.0f} s to build"),
        ("built by", f"{done.engine.backend} {done.engine.version} for {target.name} ({target.sm})"),
        ("batches", str(done.engine.manifest["batch_profile"])),
        ("graph", f"{done.half.path.name}, {len(converted.islands)} of {converted.nodes} nodes in float32"),
        ("proven on", f"{proof.images} images of {proof.source}"),
        (
            "float16 against float32",
            f"largest logit difference {proof.max_difference:.2e} (bound {done.half.bound:.3g})",
        ),
        ("top-1 agreement", f"{proof.agreement:.2%}{accuracy}"),
    ]
    console.facts(str(done.engine.path), rows)
    console.next_command(f"hemf-export bench {done.source} {done.half.path}")
