"""`hemf-export onnx`: a checkpoint → a proven ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import (
    PATH,
    Command,
    Count,
    Number,
    checkpoint_options,
    classes_option,
    images_option,
    json_option,
)
from hemf_export.files.errors import UsageError
from hemf_export.metrics.percentage import percentage


@click.command("onnx", cls=Command)
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, help="File to write.  [default: beside the checkpoint]")
@click.option("--opset", type=Count(), default=20, show_default=True, help="Version of the ONNX operators, 17 to 23.")
@click.option(
    "--batch", default="dynamic", show_default=True, metavar="N|dynamic", help="A fixed batch size, or dynamic for any."
)
@click.option("--for", "form", type=click.Choice(["cpu", "tensorrt", "tensorrt-rtx"]), default="cpu",
              show_default=True, help="Backend that the graph is optimized for; trt and calibrate optimize it "
              "themselves.")  # fmt: skip
@click.option("--input", "input_type", type=click.Choice(["float32", "uint8"]), default="float32", show_default=True,
              help="float32: normalized (N, 3, H, W); uint8: raw RGB pixels (N, H, W, 3).")  # fmt: skip
@click.option("--source-size", metavar="HxW", help="With --input uint8: the file takes whole images of this size, and "
              "resizes and crops them.  [default: it takes resized images]")  # fmt: skip
@images_option("Images for the parity check.  [default: seeded noise]")
@classes_option()
@checkpoint_options
@click.option(
    "--tolerance", type=Number(), default=1e-4, show_default=True, help="Largest difference of a logit from PyTorch's."
)
@json_option()
def command(
    checkpoint: Path, output: Path | None, opset: int, batch: str, form: Any, input_type: Any, source_size: str | None,
    images: Path | None, classes: tuple[str, ...] | None, tolerance: float, as_json: bool, weights: str | None,
    image_size: int | None, factory: str | None,
) -> None:  # fmt: skip
    """Export CHECKPOINT to one self-contained ONNX file, and prove its logits against PyTorch's.

    CHECKPOINT is a best.pt or .safetensors file of ours, best_model.pth or ckpt.pth of the HEMF authors, or a file
    of another trainer with the network's weights in it (Lightning, timm, accelerate). Ends with 3, and keeps no
    file, if a logit differs by more than the tolerance.
    """
    if batch != "dynamic" and not (batch.isascii() and batch.isdigit() and len(batch) < 10):
        raise UsageError(f"--batch takes a number or dynamic, not {batch!r}.")
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress

    file = hemf_export.export_onnx(
        checkpoint, output, opset=opset, batch=None if batch == "dynamic" else int(batch), input=input_type,
        source_size=source_size, images=images, tolerance=tolerance, form=form, classes=classes, weights=weights,
        image_size=image_size, factory=factory, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in file.notes:
        console.warn(note)
    proof = file.proof
    assert proof is not None, "an export is proven"
    if as_json:
        console.print_json({"file": str(file.path), **file.description.to_dict(), "proof": proof.to_dict()})
        return
    batches = ", ".join(str(size) for size in file.batches)
    rows = [
        ("size", console.size(file.path.stat().st_size)),
        ("nodes, opset", f"{file.nodes:,}, {opset}"),
        ("classes", ", ".join(file.classes)),
        ("input", f"{input_type}, batch {batch}, {_size(file)}"),
        *([("rewritten for", file.rewriting)] if form != "cpu" else []),
        ("proven on", f"{proof.images.images} images of {file.proven_on}, batches {batches}"),
        ("largest logit difference", f"{proof.figures.max_logit_difference:.2e} (bound {tolerance:g})"),
        ("top-1 agreement", percentage(proof.figures.agreement, proof.images.images)),
    ]
    console.facts(str(file.path), rows)
    next_step.show(file.path, images=images)


def _size(file: hemf_export.ExportedFile) -> str:
    size, source = file.description.preprocess.size, file.description.source_size
    return f"{size} px" if source is None else f"{source} (height x width), resized to {size} px inside"
