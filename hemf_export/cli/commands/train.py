"""`hemf-export train`: class folders of images → a run folder with best.pt and last.pt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.cli.options import PATH, Command, Count, device_option, json_option
from hemf_export.cli.recipe_options import SECTIONS, given_recipe, recipe_options
from hemf_export.metrics.percentage import percentage
from hemf_export.networks.variants import VARIANTS, WHOLE
from hemf_export.train.recipe_file import dump

if TYPE_CHECKING:
    from hemf_export.train import run
    from hemf_export.train.recipe import Recipe


@click.command("train", cls=Command, groups=SECTIONS)
@click.argument("data", type=PATH, required=False, metavar="DATA")
@click.option("-o", "--output", type=PATH, help="The run's folder.  [required]")
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
@click.option("--teacher", type=PATH, metavar="CKPT",
              help="A trained checkpoint of the same classes, of any size: it teaches this one.")  # fmt: skip
@click.option("--print-recipe", is_flag=True, help="Print the recipe as a TOML file, and train nothing.")
@recipe_options
@device_option
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
@json_option("summary")
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

    On several GPUs: torchrun --nproc-per-node 4 -m hemf_export train DATA -o RUN, with the same options.
    """
    recipe = given_recipe(context, recipe_source, fields)
    if print_recipe:
        click.echo(dump(recipe), nl=False)
        return
    data, output = _required(context, "data", data), _required(context, "output", output)
    from hemf_export.cli import console
    from hemf_export.train import scalars
    from hemf_export.train.run import Options

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
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.files import locks
    from hemf_export.train import distributed, scalars
    from hemf_export.train.run import check, prepare
    from hemf_export.train.trainer import Epoch

    lines, board = EpochLines(), None

    def show(event: object) -> None:
        lines(event)
        if board is not None and isinstance(event, Epoch):
            board.add(event.figures, event.number)

    check(options, recipe)
    with distributed.current().once(locks.owned_folder(options.output)):
        prepared = prepare(options, recipe, ConsoleProgress(show))
        for line in prepared.notes:
            console.warn(line)
        console.say(prepared.headline)
        if tensorboard and prepared.trainer.group.first:
            folder = prepared.trainer.run.path / "tensorboard"
            board = scalars.writer(folder, start=prepared.trainer.next_epoch + 1)
        summary = prepared.fit()
    if board is not None:
        board.close()
    return summary


def _show(summary: dict[str, Any], output: Path) -> None:
    from hemf_export.cli import console, next_step

    rows = [
        (split, str(figures["images"]), *_shares(figures, "accuracy", "balanced_accuracy"), _recalls(figures))
        for split, figures in summary["splits"].items()
    ]
    columns = ("split", "images", "accuracy", "balanced", "recall of each class")
    console.table(f"best.pt, epoch {summary['epoch']}", columns, rows)
    console.say(f"Written to {output}: best.pt, last.pt, metrics.jsonl, summary.json, confusion.png, curve.png")
    next_step.show(output / "best.pt")


@contextmanager
def _together(device: str) -> Iterator[bool]:
    """Be one of the run's processes, where torchrun started several; whether this is the one that talks."""
    from hemf_export.cli import console
    from hemf_export.train import distributed

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


def _shares(figures: dict[str, Any], *names: str) -> list[str]:
    return [percentage(figures[name], figures["images"]) for name in names]


def _recalls(figures: dict[str, Any]) -> str:
    counts = (sum(row) for row in figures["confusion"])
    return "  ".join(
        f"{name} {percentage(value, count)}"
        for (name, value), count in zip(figures["recall"].items(), counts, strict=True)
    )


class EpochLines:
    """Prints a line for each epoch as it ends; knows no other event."""

    def __init__(self) -> None:
        self._durations: list[float] = []

    def __call__(self, event: object) -> None:
        from hemf_export.cli import console
        from hemf_export.train.trainer import Epoch

        if not isinstance(event, Epoch):
            return
        line = event.figures
        self._durations.append(line["seconds"])
        last = self._durations[-5:]
        left = (event.epochs - event.number) * sum(last) / len(last)
        skipped = f"  skipped {line['skipped_steps']}" if line["skipped_steps"] else ""
        console.say(
            f"epoch {event.number:>3}/{event.epochs}  loss {_figure(line['loss'], '.4f')}  "
            f"acc {_share(line['accuracy'], event.training_images)}  val loss {_figure(line['val_loss'], '.4f')}  "
            f"val acc {_share(line['val_accuracy'], event.validation_images)}  lr {line['learning_rate']:.2e}  "
            f"{line['images_per_second']:.1f} img/s  left {_duration(left)}{skipped}"
        )


def _figure(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _share(value: float | None, images: int) -> str:
    return "not finite" if value is None else percentage(value, images)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
