"""`hemf-export finetune`: an INT8 file whose accuracy fell → the same graph with weights trained for INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hemf.errors import UsageError
from hemf.reading import Reading
from hemf_export.commands.checkpoint_options import reading_options
from hemf_export.number_options import POINTS, SHARE, Count, Number, Seed
from train.finetuning_recipe import FineTuning

_DEFAULTS = FineTuning()


@click.command("finetune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="Labelled images: a data folder (trains on train/, judges by val/), or class folders.")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), metavar="CKPT",
              help="The checkpoint MODEL was made from.  [default: the one beside it]")  # fmt: skip
@reading_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file.  [default: MODEL.qat.int8.onnx]")
@click.option("--held-out", type=click.Path(path_type=Path), help="Other images to judge by.")
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
@click.option("--seed", type=Seed(), default=_DEFAULTS.seed, show_default=True, help="Of order and augmentation.")
@click.option("--max-drop", type=POINTS, metavar="POINTS", help="Keep the file only if it loses at most this.")
@click.option("--metric", type=click.Choice(["accuracy", "balanced-accuracy"]), default="accuracy", show_default=True)
@click.option("--min-agreement", type=SHARE, metavar="SHARE", help="The same: images that keep their class.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--workers", type=Count(0, 1024), default=0, show_default=True, help="Loader processes; a GPU wants some."
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(
    model: Path, data: Path, reference: Path | None, output: Path | None, held_out: Path | None,
    max_drop: float | None, metric: Any, min_agreement: float | None, device: str, workers: int,
    as_json: bool, reading: Reading, **recipe: Any,
) -> None:  # fmt: skip
    """Train the weights of MODEL, an INT8 file of `calibrate`, where its quantization stands.

    The graph and its INT8 ranges stay; the best epoch on held-out images is kept if it is better than MODEL. The result
    is a model of its own near the checkpoint: `verify` tells how near.
    """
    if max_drop is None and min_agreement is None and metric != "accuracy":
        raise UsageError("--metric is of --max-drop.")

    from calibration.budget import Budget
    from hemf_export import console, quantized_finetuning

    asked = max_drop is not None or min_agreement is not None
    request = quantized_finetuning.Request(
        source=model, data=data, reference=reference, output=output, held_out=held_out, recipe=FineTuning(**recipe),
        budget=Budget(max_drop, min_agreement, metric) if asked else None, device=device,
        workers=workers, reading=reading,
    )  # fmt: skip
    listener = _Progress(request.recipe.epochs)
    try:
        made = quantized_finetuning.make(request, listener)
    finally:
        listener.close()
    for note in made.notes:
        console.warn(note)
    if as_json:
        console.print_json({**made.manifest, "file": str(made.path)})
        return
    before, after = made.before, made.after
    assert before.accuracy is not None
    assert after.accuracy is not None
    rows = [
        ("checkpoint", f"{after.reference_accuracy:.2%}", f"{after.reference_balanced_accuracy:.2%}", "", ""),
        *(
            (name, f"{found.accuracy:.2%}", f"{found.balanced_accuracy:.2%}", f"{found.agreement:.2%}",
             f"{found.max_difference:.2g}")
            for name, found in ((model.name, before), (made.path.name, after))
        ),
    ]  # fmt: skip
    columns = ("", "accuracy", "balanced", "agree", "largest logit difference")
    console.table(f"{after.images} held-out images", columns, rows)
    trained = made.manifest["fine_tuning"]["training_images"]["images"]
    console.say(f"{made.path}: epoch {made.tuned.epoch} of {request.recipe.epochs}, on {trained} images")
    console.next_command("hemf-export verify", made.path, "--data", data)


class _Progress:
    """A bar for each phase and epoch, on a terminal, and one line an epoch."""

    def __init__(self, epochs: int) -> None:
        from hemf_export import console

        self.epochs, self.console = epochs, console
        self.bar: Any = None
        self.shown = ""

    def note(self, text: str) -> None:
        """What a user should know before more time is spent."""
        self.console.warn(text)

    def phase(self, text: str, done: int, total: int) -> None:
        self._show(text, total)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self.phase(f"epoch {epoch}/{self.epochs}", step, steps)

    def epoch(self, line: dict[str, Any]) -> None:
        self.close()
        loss = f"  loss {line['loss']:.4f}" if "loss" in line else ""
        name = f"epoch {line['epoch']:>2}/{self.epochs}" if line["epoch"] else "as calibrated"
        self.console.say(
            f"{name}{loss}  val loss {line['val_loss']:.4f}  val acc {line['val_accuracy']:.2%}  "
            f"agree {line['val_agreement']:.2%}"
        )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
        self.bar, self.shown = None, ""

    def _show(self, text: str, total: int) -> None:
        if text != self.shown:
            self.close()
            self.bar, self.shown = self.console.bar(text, total), text
