"""`hemf-export train`: class folders of images → a run folder with best.pt and last.pt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.api.recipes import VARIANTS, WHOLE
from hemf_export.cli.options import PATH, Command, Count, device_option, json_option
from hemf_export.cli.recipe_options import SECTIONS, given_recipe, recipe_options
from hemf_export.files.errors import FailedElsewhereError
from hemf_export.metrics.percentage import percentage


@click.command("train", cls=Command, groups=SECTIONS)
@click.argument("data", type=PATH, required=False, metavar="DATA")
@click.option("-o", "--output", type=PATH, help="Folder of the run.  [required]")
@click.option("--model", default="hemf-base", show_default=True, metavar="NAME",
              help="Network to train: hemf-base, hemf-small, hemf-tiny, hifuse-small, convnext-base …; "
              "hemf-export info --list has all. One of your own is MODULE:FUNCTION.")  # fmt: skip
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"A reduced HEMF of the paper's ablation: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option(
    "--image-size",
    type=Count(32, 8192),
    help="Input height and width.  [default: the network's own, 224 in those of the paper]",
)
@click.option("--preprocess", "mode", type=click.Choice(["crop", "squash"]), default="crop", show_default=True,
              help="crop: shorter side to 256, centre 224; squash: plain resize.")  # fmt: skip
@click.option("--teacher", type=PATH, metavar="CKPT",
              help="Trained checkpoint of the same classes to distil from; of any size.")  # fmt: skip
@click.option("--teacher-model", metavar="MODULE:FUNCTION", help="Code of the teacher, if it is a network of your own.")
@click.option("--init", type=PATH, metavar="CKPT",
              help="Checkpoint of the same network to start from, such as its authors' weights for ImageNet; its "
              "classifier is left out if it has other classes.")  # fmt: skip
@click.option("--print-recipe", is_flag=True, help="Print the recipe as a TOML file without training.")
@recipe_options
@device_option
@click.option("--amp", type=click.Choice(["float16", "bfloat16", "off"]), default=None,
              help="Type of automatic mixed precision; float16 on a CPU needs --device cpu too.  "
              "[default: float16 on CUDA, off on a CPU]")  # fmt: skip
@click.option("--no-amp", "amp", flag_value="off", hidden=True)
@click.option(
    "--channels-last/--no-channels-last", default=True, show_default=True, help="Memory format of weights and images."
)
@click.option("--compile/--no-compile", default=False, show_default=True, help="Train through torch.compile.")
@click.option(
    "--workers",
    type=Count(0, 1024),
    default=None,
    help="Processes that load images.  [default: 0 on a CPU, up to 8 on CUDA]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that don't decode, and count them.")
@click.option("--tensorboard", is_flag=True, help="Write each epoch's metrics for TensorBoard too, in RUN/tensorboard.")
@json_option("summary")
@click.pass_context
def command(
    context: click.Context, /, data: Path | None, output: Path | None, model: str, variant: str,
    image_size: int | None,
    mode: Any, recipe_source: str | None, print_recipe: bool, device: str, amp: str | None, channels_last: bool,
    compile: bool, workers: int | None, resume: bool, skip_unreadable: bool, tensorboard: bool, as_json: bool,
    teacher: Path | None, teacher_model: str | None, init: Path | None, **fields: Any,
) -> None:  # fmt: skip
    """Train HEMF or another network on DATA, which holds train/ and val/ (and test/) with a folder of images per class.

    The defaults are the paper's recipe (Table 5). Every field of it is a flag, and a key of a --recipe file. After
    an interruption, --resume continues from the last finished epoch.

    On several GPUs: torchrun --nproc-per-node 4 -m hemf_export train DATA -o RUN, with the same options.
    """
    recipe = given_recipe(context, recipe_source, fields)
    if print_recipe:
        click.echo(hemf_export.recipe_file(recipe), nl=False)
        return
    data, output = _required(context, "data", data), _required(context, "output", output)
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    with _first_process_talks() as first:
        run = hemf_export.train(
            data, output, model=model, recipe=recipe, variant=variant, image_size=image_size, preprocess=mode,
            teacher=teacher, teacher_model=teacher_model, init=init, device=device, amp=amp,
            channels_last=channels_last, compile=compile,
            workers=workers, resume=resume, skip_unreadable=skip_unreadable, tensorboard=tensorboard,
            progress=ConsoleProgress(EpochLines()),
        )  # fmt: skip
        if first and as_json:
            console.print_json(run.manifest)
        elif first:
            _show(run)


@contextmanager
def _first_process_talks() -> Iterator[bool]:
    """Keep every process but the first of a run quiet; whether this is the first."""
    from hemf_export.api.training import is_first_process
    from hemf_export.cli import console

    first = is_first_process()
    if not first:
        console.talk.quiet = console.results.quiet = True
    try:
        yield first
    except (FailedElsewhereError, KeyboardInterrupt) as error:
        if first:
            raise
        code = 130 if isinstance(error, KeyboardInterrupt) else error.exit_code
        # Nothing that the first process doesn't say as well; and not click's exit, whose code is only returned.
        raise SystemExit(code) from error


def _show(run: hemf_export.TrainResult) -> None:
    from hemf_export.cli import console, next_step

    summary, output = run.manifest, run.path
    rows = [
        (split, str(figures["images"]), *_shares(figures, "accuracy", "balanced_accuracy"), _recalls(figures))
        for split, figures in summary["splits"].items()
    ]
    columns = ("split", "images", "accuracy", "balanced", "recall of each class")
    console.table(f"best.pt, epoch {summary['epoch']}", columns, rows)
    files = "best.pt, last.pt, metrics.jsonl, predictions.npz, summary.json, confusion.png, curve.png"
    console.say(f"Written to {output}: {files}")
    next_step.show(run.checkpoint)


def _required(context: click.Context, name: str, value: Path | None) -> Path:
    """Return an argument that is required except with --print-recipe."""
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
    """Event handler that prints the start of a training and a line for each epoch; ignores other events."""

    def __init__(self) -> None:
        self._durations: list[float] = []

    def __call__(self, event: object) -> None:
        from hemf_export.api.events import Epoch, TrainingBegun
        from hemf_export.cli import console

        if isinstance(event, TrainingBegun):
            console.say(event.headline)
        if not isinstance(event, Epoch):
            return
        line = event.metrics
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
