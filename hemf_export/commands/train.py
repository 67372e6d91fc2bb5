"""`hemf-export train`: class folders of images → a run folder with best.pt and last.pt."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from hemf.variants import VARIANTS, WHOLE
from train.recipe import Recipe

_DEFAULTS = Recipe()


@click.command("train")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--model", default="hemf-base", show_default=True, help="hemf-base, hemf-small or hemf-tiny.")
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"A reduced network of the paper's ablation: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option("--image-size", default=224, show_default=True, help="Input height and width; a multiple of 32.")
@click.option("--preprocess", "mode", type=click.Choice(["crop", "squash"]), default="crop", show_default=True,
              help="crop: shorter side to 256, centre 224; squash: plain resize.")  # fmt: skip
@click.option("--epochs", default=_DEFAULTS.epochs, show_default=True)
@click.option("--batch-size", default=_DEFAULTS.batch_size, show_default=True)
@click.option("--learning-rate", default=_DEFAULTS.learning_rate, show_default=True, help="Peak, after the warm-up.")
@click.option(
    "--final-learning-rate", default=_DEFAULTS.final_learning_rate, show_default=True, help="End of the cosine."
)
@click.option("--warmup-epochs", default=_DEFAULTS.warmup_epochs, show_default=True)
@click.option(
    "--warmup-start", default=_DEFAULTS.warmup_start, show_default=True, help="Share of the rate at the start."
)
@click.option("--weight-decay", default=_DEFAULTS.weight_decay, show_default=True)
@click.option("--seed", default=_DEFAULTS.seed, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--amp/--no-amp", default=True, show_default=True, help="float16 autocast, on CUDA only.")
@click.option("--workers", type=int, default=None, help="Loader processes.  [default: 0 on a CPU, up to 8 on CUDA]")
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that don't decode, and count them.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    data: Path, output: Path, model: str, variant: str, image_size: int, mode: Any, device: str, amp: bool,
    workers: int | None, resume: bool, skip_unreadable: bool, as_json: bool, **recipe: Any,
) -> None:  # fmt: skip
    """Train HEMF on DATA, which holds train/ and val/ (and test/) with a folder of images per class.

    The defaults are the paper's recipe (Table 5). Interrupted or killed, a run goes on with --resume from its last
    finished epoch.
    """
    from hemf_export import console
    from train.run import Options, prepare

    options = Options(
        data=data, output=output, model=model, variant=variant, image_size=image_size, mode=mode, device=device,
        amp=amp, workers=workers, resume=resume, skip_unreadable=skip_unreadable,
    )  # fmt: skip
    listener = Progress(int(recipe["epochs"]))
    run = prepare(options, Recipe(**recipe), listener)
    for line in run.notes:
        console.warn(line)
    console.say(run.headline)
    summary = run.fit()
    listener.close()
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    rows = [(split, str(f["images"]), f"{f['accuracy']:.2%}", f"{f['balanced_accuracy']:.2%}", _recalls(f["recall"]))
            for split, f in summary["splits"].items()]  # fmt: skip
    console.table("best.pt", ("split", "images", "accuracy", "balanced", "recall per class"), rows)
    for split, figures in summary["splits"].items():
        names = list(figures["recall"])
        cells = [(name, *(str(count) for count in row)) for name, row in zip(names, figures["confusion"], strict=True)]
        console.table(f"\nConfusion on {split} (row: true class)", ("", *names), cells)
    console.say(f"{output}: best.pt (epoch {summary['epoch']}), last.pt, metrics.jsonl, summary.json, confusion.png")
    console.next_command("hemf-export onnx", output / "best.pt")


def _recalls(recall: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.0%}" for name, value in recall.items())


class Progress:
    """A bar within the epoch, on a terminal, and one line an epoch."""

    def __init__(self, epochs: int) -> None:
        from hemf_export import console

        self.epochs = epochs
        self.console = console
        self.bar: Any = None
        self.durations: list[float] = []
        self.started = time.monotonic()

    def checking(self, total: int) -> None:
        self._open("reading images", total)

    def checked(self) -> None:
        self.console.advance(self.bar)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if step == 1:
            self._open(f"epoch {epoch}/{self.epochs}", steps)
        self.console.advance(self.bar)

    def epoch(self, line: dict[str, Any]) -> None:
        self.close()
        self.durations.append(line["seconds"])
        left = (self.epochs - line["epoch"]) * sum(self.durations[-5:]) / len(self.durations[-5:])
        skipped = f"  skipped {line['skipped_steps']}" if line["skipped_steps"] else ""
        self.console.say(
            f"epoch {line['epoch']:>3}/{self.epochs}  loss {line['loss']:.4f}  acc {line['accuracy']:.1%}  "
            f"val loss {line['val_loss']:.4f}  val acc {line['val_accuracy']:.2%}  lr {line['learning_rate']:.2e}  "
            f"{line['images_per_second']:.1f} img/s  left {_duration(left)}{skipped}"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self, text: str, total: int) -> None:
        self.close()
        self.bar = self.console.bar(text, total)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
