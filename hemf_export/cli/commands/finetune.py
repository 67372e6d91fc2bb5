"""`hemf-export finetune`: an INT8 file whose accuracy fell → the same graph with weights trained for INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import (
    PATH,
    POINTS,
    SHARE,
    Command,
    Count,
    Number,
    device_option,
    json_option,
    metric_option,
    reading_options,
    seed_option,
)
from hemf_export.files.errors import UsageError
from hemf_export.metrics.percentage import percentage
from hemf_export.train.finetuning_recipe import FineTuning

_DEFAULTS = FineTuning()


@click.command("finetune", cls=Command)
@click.argument("model", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Labelled images: a data folder (trains on train/, judges by val/), or class folders.")  # fmt: skip
@click.option("--reference", type=PATH, metavar="CKPT",
              help="The checkpoint MODEL was made from.  [default: the one beside it]")  # fmt: skip
@reading_options
@click.option("-o", "--output", type=PATH, help="The file.  [default: MODEL.qat.int8.onnx]")
@click.option("--held-out", type=PATH, help="Other images to judge by.")
@click.option("--epochs", type=Count(), default=_DEFAULTS.epochs, show_default=True)
@click.option("--batch-size", type=Count(), default=_DEFAULTS.batch_size, show_default=True)
@click.option(
    "--learning-rate",
    type=Number(above=True),
    default=_DEFAULTS.learning_rate,
    show_default=True,
    help="At the start; a cosine to 0.",
)
@click.option("--distillation-weight", type=SHARE, default=_DEFAULTS.distillation_weight, show_default=True,
              metavar="SHARE",
              help="Of the loss, that keeps to the checkpoint's logits; the rest, to the labels.")  # fmt: skip
@click.option(
    "--temperature",
    type=Number(above=True),
    default=_DEFAULTS.temperature,
    show_default=True,
    help="That softens both their classes.",
)
@click.option(
    "--gradient-clip",
    type=Number(),
    default=_DEFAULTS.gradient_clip,
    show_default=True,
    help="Largest norm of a gradient.",
)
@seed_option("order and augmentation", _DEFAULTS.seed)
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Keep the file only if it loses at most this.")
@metric_option
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="The same: images that keep their class.")
@device_option
@click.option(
    "--workers", type=Count(0, 1024), default=0, show_default=True, help="Loader processes; a GPU wants some."
)
@click.option("--force", is_flag=True, help="Replace a file that was made from another one or with other options.")
@json_option("manifest")
def command(
    model: Path, data: Path, reference: Path | None, output: Path | None, held_out: Path | None,
    max_drop: float | None, metric: Any, min_agreement: float | None, device: str, workers: int,
    force: bool, as_json: bool, reading: Reading, **recipe: Any,
) -> None:  # fmt: skip
    """Train the weights of MODEL, an INT8 file of `calibrate`, where its quantization stands.

    The graph and its INT8 ranges stay; the best epoch on held-out images is kept if it is better than MODEL. The result
    is a model of its own near the checkpoint: `verify` tells how near.
    """
    if max_drop is None and min_agreement is None and metric != "accuracy":
        raise UsageError("--metric is of --max-drop.")

    from hemf_export.calibration.budget import Budget
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.precision import finetune

    asked = max_drop is not None or min_agreement is not None
    request = finetune.Request(
        source=model, data=data, reference=reference, output=output, held_out=held_out, recipe=FineTuning(**recipe),
        budget=Budget(max_drop, min_agreement, metric) if asked else None, device=device,
        workers=workers, reading=reading, force=force,
    )  # fmt: skip
    made = finetune.make(request, ConsoleProgress(show_epoch))
    for note in made.notes:
        console.warn(note)
    if as_json:
        console.print_json({**made.manifest, "file": str(made.path)})
        return
    before, after = made.before, made.after

    def share(value: float | None) -> str:
        return "" if value is None else percentage(value, after.images)

    rows = [
        ("checkpoint", share(after.reference_accuracy), share(after.reference_balanced_accuracy), "", ""),
        *(
            (name, share(found.accuracy), share(found.balanced_accuracy), share(found.agreement),
             f"{found.logit_difference.max:.2g}")
            for name, found in ((model.name, before), (made.path.name, after))
        ),
    ]  # fmt: skip
    columns = ("", "accuracy", "balanced", "agree", "largest logit difference")
    console.table(f"{after.images} held-out images", columns, rows)
    trained = made.manifest["fine_tuning"]["training_images"]["images"]
    console.say(f"{made.path}: epoch {made.tuned.epoch} of {request.recipe.epochs}, on {trained} images")
    console.next_command("hemf-export verify", made.path, "--data", data)


def show_epoch(event: object) -> None:
    from hemf_export.cli import console
    from hemf_export.train.finetuning import TunedEpoch

    if not isinstance(event, TunedEpoch):
        return
    figures = event.figures
    loss = f"  loss {figures['loss']:.4f}" if event.number else ""
    name = f"epoch {event.number:>2}/{event.epochs}" if event.number else "as calibrated"
    accuracy, agreement = (percentage(figures[f"val_{each}"], event.images) for each in ("accuracy", "agreement"))
    console.say(f"{name}{loss}  val loss {figures['val_loss']:.4f}  val acc {accuracy}  agree {agreement}")
