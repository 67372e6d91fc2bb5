"""`hemf-export finetune`: fine-tune the weights of an INT8 file whose accuracy dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Count,
    Number,
    checkpoint_options,
    device_option,
    json_option,
    metric_option,
    seed_option,
)
from hemf_export.metrics.percentage import percentage

_DEFAULTS = hemf_export.FineTuning()


@click.command("finetune", cls=Command)
@click.argument("model", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Labelled images: a data folder (trains on train/, selects on val/), or class folders.")  # fmt: skip
@click.option("--reference", type=PATH, metavar="CKPT",
              help="Checkpoint that MODEL was made from.  [default: the one beside it]")  # fmt: skip
@checkpoint_options
@click.option("-o", "--output", type=PATH, help="File to write.  [default: MODEL.qat.int8.onnx]")
@click.option("--held-out", type=PATH, help="Held-out images, where they are elsewhere.")
@click.option("--epochs", type=Count(), default=_DEFAULTS.epochs, show_default=True,
              help="Passes over the training images.")  # fmt: skip
@click.option("--batch-size", type=Count(), default=_DEFAULTS.batch_size, show_default=True,
              help="Images per weight update.")  # fmt: skip
@click.option(
    "--learning-rate",
    type=Number(above=True),
    default=_DEFAULTS.learning_rate,
    show_default=True,
    help="Initial rate, which falls to 0 along a cosine.",
)
@click.option("--distillation-weight", type=SHARE, default=_DEFAULTS.distillation_weight, show_default=True,
              metavar="SHARE",
              help="Share of the loss that follows the checkpoint's logits; the rest follows the labels.")  # fmt: skip
@click.option(
    "--temperature",
    type=Number(above=True),
    default=_DEFAULTS.temperature,
    show_default=True,
    help="Temperature of both sides of the distillation loss.",
)
@click.option(
    "--gradient-clip",
    type=Number(),
    default=_DEFAULTS.gradient_clip,
    show_default=True,
    help="Largest norm of the gradients; 0 for no limit.",
)
@seed_option("order and augmentation", _DEFAULTS.seed)
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Keep the file only if --metric drops by at most this.")
@metric_option
@click.option(
    "--min-agreement", type=SHARE, metavar="SHARE", help="Keep the file only if this share of images keeps its class."
)
@device_option
@click.option(
    "--workers",
    type=Count(0, 1024),
    default=0,
    show_default=True,
    help="Processes that load images; use several on a GPU.",
)
@click.option("--force", is_flag=True, help="Replace a file that was made from another one or with other options.")
@json_option("manifest")
def command(
    model: Path, data: Path, reference: Path | None, output: Path | None, held_out: Path | None,
    max_drop: float | None, metric: Any, min_agreement: float | None, device: Any, workers: int,
    force: bool, as_json: bool, weights: str | None, image_size: int | None, factory: str | None, **recipe: Any,
) -> None:  # fmt: skip
    """Fine-tune the weights of MODEL, an INT8 file of calibrate, with its quantization in place.

    Graph and INT8 ranges stay as they are. The epoch that is best on held-out images is kept if it is better than
    MODEL. The result is a model of its own, close to the checkpoint: verify shows how close.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    file = hemf_export.finetune(
        model, data, output, reference=reference, recipe=recipe, held_out=held_out, max_drop=max_drop,
        min_agreement=min_agreement, metric=metric, device=device, workers=workers, weights=weights,
        image_size=image_size, factory=factory, force=force, progress=ConsoleProgress(show_epoch),
    )  # fmt: skip
    for note in file.notes:
        console.warn(note)
    if as_json:
        console.print_json({**file.manifest, "file": str(file.path)})
        return
    before, after = file.before, file.after

    def share(value: float | None) -> str:
        return "" if value is None else percentage(value, after.images)

    rows = [
        ("checkpoint", share(after.reference_accuracy), share(after.reference_balanced_accuracy), "", ""),
        *(
            (name, share(one.accuracy), share(one.balanced_accuracy), share(one.agreement),
             f"{one.logit_difference.max:.2g}")
            for name, one in ((model.name, before), (file.path.name, after))
        ),
    ]  # fmt: skip
    columns = ("", "accuracy", "balanced", "agree", "largest logit difference")
    console.table(f"{after.images} held-out images", columns, rows)
    trained = file.manifest["fine_tuning"]["training_images"]["images"]
    console.say(f"{file.path}: epoch {file.epoch} of {recipe['epochs']}, on {trained} images")
    console.next_command("hemf-export verify", file.path, "--data", data)


def show_epoch(event: object) -> None:
    from hemf_export.api.events import TunedEpoch
    from hemf_export.cli import console

    if not isinstance(event, TunedEpoch):
        return
    metrics = event.metrics
    loss = f"  loss {metrics['loss']:.4f}" if event.number else ""
    name = f"epoch {event.number:>2}/{event.epochs}" if event.number else "as calibrated"
    accuracy, agreement = (percentage(metrics[f"val_{each}"], event.images) for each in ("accuracy", "agreement"))
    console.say(f"{name}{loss}  val loss {metrics['val_loss']:.4f}  val acc {accuracy}  agree {agreement}")
