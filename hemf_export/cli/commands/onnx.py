"""`hemf-export onnx`: a checkpoint → a proven ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    Command,
    Count,
    Number,
    classes_option,
    images_option,
    json_option,
    reading_options,
)
from hemf_export.files.errors import UsageError
from hemf_export.metrics.percentage import percentage

if TYPE_CHECKING:  # what runs imports it when it is needed: --help shows without torch
    from hemf_export.models.description import Description


@click.command("onnx", cls=Command)
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, help="The ONNX file.  [default: beside the checkpoint]")
@click.option("--opset", type=Count(), default=20, show_default=True, help="17 to 23.")
@click.option("--batch", default="dynamic", show_default=True, metavar="N|dynamic", help="Fixed batch size, or any.")
@click.option("--for", "form", type=click.Choice(["cpu", "tensorrt", "tensorrt-rtx"]), default="cpu",
              show_default=True, help="The backend whose kernels the graph is brought to; trt and calibrate do "
              "so themselves.")  # fmt: skip
@click.option("--input", "input_type", type=click.Choice(["float32", "uint8"]), default="float32", show_default=True,
              help="float32: normalized (N, 3, H, W); uint8: raw RGB pixels (N, H, W, 3).")  # fmt: skip
@click.option("--source-size", metavar="HxW", help="With --input uint8: images of this size come as they are, and the "
              "file resizes and crops them.  [default: they come resized]")  # fmt: skip
@images_option("Images to prove on.  [default: seeded noise]")
@classes_option()
@reading_options
@click.option("--tolerance", type=Number(), default=1e-4, show_default=True, help="Largest difference of a logit.")
@json_option()
def command(
    checkpoint: Path, output: Path | None, opset: int, batch: str, form: Any, input_type: Any, source_size: str | None,
    images: Path | None, classes: tuple[str, ...] | None, tolerance: float, as_json: bool, reading: Reading,
) -> None:  # fmt: skip
    """Export CHECKPOINT to one self-contained ONNX file, and prove its logits against PyTorch's.

    CHECKPOINT is a best.pt or .safetensors file of ours, the HEMF authors' best_model.pth or ckpt.pth, or a file of
    another trainer that has the network's weights in it (Lightning, timm, accelerate).
    Ends with 3, and keeps no file, where a logit differs by more than the tolerance.
    """
    if batch != "dynamic" and not (batch.isascii() and batch.isdigit() and len(batch) < 10):
        raise UsageError(f"--batch takes a number or dynamic, not {batch!r}.")
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.export.onnx_export import Options, default_output, export
    from hemf_export.images.model_input import SourceSize

    options = Options(
        opset=opset, batch=None if batch == "dynamic" else int(batch), input_type=input_type,
        source_size=None if source_size is None else SourceSize.parse(source_size), images=images, tolerance=tolerance,
        form=form,
    )  # fmt: skip
    target = output or default_output(checkpoint)
    done = export(checkpoint, target, options, classes=classes, reading=reading, progress=ConsoleProgress())
    for note in done.notes:
        console.warn(note)
    if as_json:
        values = {"file": str(done.path), **done.description.to_dict(), "proof": done.proof.to_dict()}
        console.print_json(values)
        return
    proof = done.parity.comparison
    batches = ", ".join(str(size) for size in done.parity.batches)
    rows = [
        ("size", console.size(done.path.stat().st_size)),
        ("nodes, opset", f"{done.nodes:,}, {opset}"),
        ("classes", ", ".join(done.description.classes)),
        ("input", f"{input_type}, batch {batch}, {_size(done.description)}"),
        *([("rewritten for", str(done.rewriting))] if form != "cpu" else []),
        ("proven on", f"{proof.images} images of {done.parity.source}, batches {batches}"),
        ("largest logit difference", f"{proof.logit_difference.max:.2e} (bound {tolerance:g})"),
        ("top-1 agreement", percentage(proof.agreement, proof.images)),
    ]
    console.facts(str(done.path), rows)
    next_step.show(done.path, images=images)


def _size(described: Description) -> str:
    size = described.preprocess.size
    source = described.source_size
    return f"{size} px" if source is None else f"{source} (height x width), resized to {size} px inside"
