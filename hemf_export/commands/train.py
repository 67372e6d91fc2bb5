"""`hemf-export train`: class folders of images → a run folder with best.pt and last.pt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf.variants import VARIANTS, WHOLE
from hemf_export.grouped_help import GroupedCommand
from hemf_export.number_options import Count
from hemf_export.recipe_options import SECTIONS, given_recipe, recipe_options
from train.recipe_file import dump

if TYPE_CHECKING:
    from train import run, scalars
    from train.recipe import Recipe


@click.command("train", cls=GroupedCommand, groups=SECTIONS)
@click.argument("data", type=click.Path(path_type=Path), required=False, metavar="DATA")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The run's folder.  [required]")
@click.option("--model", default="hemf-base", show_default=True, help="hemf-base, hemf-small or hemf-tiny.")
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"A reduced network of the paper's ablation: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option(
    "--image-size",
    type=Count(32, 8192),
    default=224,
    show_default=True,
    help="Input height and width; a multiple of 32.",
)
@click.option("--preprocess", "mode", type=click.Choice(["crop", "squash"]), default="crop", show_default=True,
              help="crop: shorter side to 256, centre 224; squash: plain resize.")  # fmt: skip
@click.option("--teacher", type=click.Path(path_type=Path), metavar="CKPT",
              help="A trained checkpoint of the same classes, of any size: it teaches this one.")  # fmt: skip
@click.option("--print-recipe", is_flag=True, help="Print the recipe as a TOML file, and train nothing.")
@recipe_options
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--amp", type=click.Choice(["float16", "bfloat16", "off"]), default=None,
              help="Type that products are computed in.  [default: float16 on CUDA, off on a CPU]")  # fmt: skip
@click.option("--no-amp", "amp", flag_value="off", hidden=True)
@click.option(
    "--channels-last/--no-channels-last", default=True, show_default=True, help="Memory of weights and images."
)
@click.option("--compile/--no-compile", default=False, show_default=True, help="Through torch.compile.")
@click.option(
    "--workers", type=Count(0, 1024), default=None, help="Loader processes.  [default: 0 on a CPU, up to 8 on CUDA]"
)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that don't decode, and count them.")
@click.option("--tensorboard", is_flag=True, help="Each epoch's figures for TensorBoard as well, in RUN/tensorboard.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def command(
    context: click.Context, /, data: Path | None, output: Path | None, model: str, variant: str, image_size: int,
    mode: Any, recipe_source: str | None, print_recipe: bool, device: str, amp: str | None, channels_last: bool,
    compile: bool, workers: int | None, resume: bool, skip_unreadable: bool, tensorboard: bool, as_json: bool,
    teacher: Path | None, **fields: Any,
) -> None:  # fmt: skip
    """Train HEMF on DATA, which holds train/ and val/ (and test/) with a folder of images per class.

    The defaults are the paper's recipe (Table 5): every field is a flag, and a key of a --recipe file. Interrupted or
    killed, a run goes on with --resume from its last finished epoch.

    On several GPUs: torchrun --nproc-per-node 4 -m train DATA -o RUN, with the same options.
    """
    recipe = given_recipe(context, recipe_source, fields)
    if print_recipe:
        click.echo(dump(recipe), nl=False)
        return
    data, output = _required(context, "data", data), _required(context, "output", output)
    from hemf_export import console
    from train import scalars
    from train.run import Options

    if tensorboard:
        scalars.check()
    options = Options(
        data=data, output=output, model=model, variant=variant, image_size=image_size, mode=mode, device=device,
        amp=amp, channels_last=channels_last, compile=compile, workers=workers, resume=resume,
        skip_unreadable=skip_unreadable, teacher=teacher,
    )  # fmt: skip
    with _together(device) as first:
        summary = _train(options, recipe, tensorboard=tensorboard)
        if first and as_json:
            console.print_json(summary)
        elif first:
            _show(summary, output)


def _train(options: run.Options, recipe: Recipe, *, tensorboard: bool) -> dict[str, Any]:
    """The summary of a whole run."""
    from hemf import locks
    from hemf_export import console
    from train import distributed, scalars
    from train.run import check, prepare

    listener = Progress(recipe.epochs)
    check(options, recipe)
    with distributed.current().once(locks.owned_folder(options.output)):
        prepared = prepare(options, recipe, listener)
        for line in prepared.notes:
            console.warn(line)
        console.say(prepared.headline)
        if tensorboard and prepared.trainer.group.first:
            folder = prepared.trainer.run.path / "tensorboard"
            listener.events = scalars.writer(folder, start=prepared.trainer.next_epoch + 1)
        summary = prepared.fit()
    listener.finish()
    return summary


def _show(summary: dict[str, Any], output: Path) -> None:
    from hemf_export import console

    rows = [(split, str(f["images"]), f"{f['accuracy']:.2%}", f"{f['balanced_accuracy']:.2%}", _recalls(f["recall"]))
            for split, f in summary["splits"].items()]  # fmt: skip
    console.table("best.pt", ("split", "images", "accuracy", "balanced", "recall per class"), rows)
    for split, figures in summary["splits"].items():
        names = list(figures["recall"])
        cells = [(name, *(str(count) for count in row)) for name, row in zip(names, figures["confusion"], strict=True)]
        console.table(f"\nConfusion on {split} (row: true class)", ("", *names), cells)
    console.say(
        f"{output}: best.pt (epoch {summary['epoch']}), last.pt, metrics.jsonl, summary.json, confusion.png, curve.png"
    )
    console.next_command("hemf-export onnx", output / "best.pt")


@contextmanager
def _together(device: str) -> Iterator[bool]:
    """Be one of the run's processes, where torchrun started several; whether this is the one that talks."""
    from hemf_export import console
    from train import distributed

    first = distributed.launched().first
    if not first:
        console.talk.quiet = console.results.quiet = True
    try:
        with distributed.joined(device):
            yield first
    except (distributed.FailedElsewhereError, KeyboardInterrupt) as error:
        if first:
            raise
        code = 130 if isinstance(error, KeyboardInterrupt) else error.exit_code
        # Nothing that the first process doesn't say as well; and not click's exit, whose code is only returned.
        raise SystemExit(code) from error


def _required(context: click.Context, name: str, value: Path | None) -> Path:
    """What only --print-recipe does without."""
    if value is None:
        parameter = next(each for each in context.command.params if each.name == name)
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


def _recalls(recall: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.0%}" for name, value in recall.items())


class Progress:
    """A bar within the epoch, on a terminal, and one line an epoch; the figures for TensorBoard, where `events` is."""

    def __init__(self, epochs: int) -> None:
        from hemf_export import console

        self.epochs = epochs
        self.console = console
        self.bar: Any = None
        self.durations: list[float] = []
        self.started = time.monotonic()
        self.events: scalars.Scalars | None = None

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
        if self.events is not None:
            self.events.add(line, line["epoch"])
        self.durations.append(line["seconds"])
        left = (self.epochs - line["epoch"]) * sum(self.durations[-5:]) / len(self.durations[-5:])
        skipped = f"  skipped {line['skipped_steps']}" if line["skipped_steps"] else ""
        self.console.say(
            f"epoch {line['epoch']:>3}/{self.epochs}  loss {_figure(line['loss'], '.4f')}  "
            f"acc {_figure(line['accuracy'], '.1%')}  val loss {_figure(line['val_loss'], '.4f')}  "
            f"val acc {_figure(line['val_accuracy'], '.2%')}  lr {line['learning_rate']:.2e}  "
            f"{line['images_per_second']:.1f} img/s  left {_duration(left)}{skipped}"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def finish(self) -> None:
        """After the last epoch."""
        self.close()
        if self.events is not None:
            self.events.close()

    def _open(self, text: str, total: int) -> None:
        self.close()
        self.bar = self.console.bar(text, total)


def _figure(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
