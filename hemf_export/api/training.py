"""Train a checkpoint on labelled images, or compare several configurations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemf_export.api.results import PathLike, Shown, TrainResult, path_of
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress, Task
from hemf_export.pages.table import Table

if TYPE_CHECKING:
    from hemf_export.train.ablation import Outcome
    from hemf_export.train.recipe import Recipe
    from hemf_export.train.scalars import Scalars


@dataclass(frozen=True)
class TrainingBegun:
    """Event at the start of a training; `headline` names the network and the data."""

    headline: str


@dataclass(frozen=True)
class FailedRun:
    """Failed run of an ablation.

    Args:
        name: name of its folder.
        reason: which run failed and why, in one line.
        error: error that it raised.
    """

    name: str
    reason: str
    error: Exception


@dataclass(frozen=True)
class Ablation(Shown):
    """Results of several configurations trained alike.

    Args:
        path: folder of the run folders, with ablation.json and ablation.md.
        values: content of ablation.json, in plain types.
        table: metrics of the configurations; of different networks with their sizes, latencies and tests too.
        failures: runs that failed.
        best: checkpoint with the best validation accuracy; None if every run failed.
        parts: the table of different networks in parts that are narrow enough for a terminal; none of one network.
    """

    path: Path
    values: Mapping[str, Any] = field(repr=False)
    table: Table = field(repr=False)
    failures: tuple[FailedRun, ...] = ()
    best: Path | None = None
    parts: tuple[Table, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Convert the results to plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        means = {row["name"]: row["mean"].get("accuracy") for row in self.values["configurations"]}
        return {name: "failed" if mean is None else f"accuracy {mean:.1%}" for name, mean in means.items()}


def train(
    data: PathLike, output: PathLike, *, model: str = "hemf-base",
    recipe: Recipe | PathLike | Mapping[str, Any] | None = None, variant: str | None = None,
    image_size: int | None = None, preprocess: Literal["crop", "squash"] = "crop", teacher: PathLike | None = None,
    teacher_model: str | None = None, init: PathLike | None = None, device: str = "auto", amp: str | None = None,
    channels_last: bool = True,
    compile: bool = False, workers: int | None = None, resume: bool = False, skip_unreadable: bool = False,
    tensorboard: bool = False, progress: Progress = SILENT,
) -> TrainResult:  # fmt: skip
    """Train a network on class folders of images. Under torchrun, each process calls this, and they train together.

    Args:
        data: folder with train/ and val/ (and test/), each with a folder of images per class.
        output: the run's folder: best.pt, last.pt, metrics.jsonl, predictions.npz, summary.json, confusion.png and
            curve.png.
        model: name of a registered network; see `list_networks`. `package.module:function` is a network of your own:
            the function is imported, and called with `num_classes=` alone. No checkpoint makes it run: to read
            one of such a network, give `factory="package.module:function"` again.
        recipe: a Recipe, a TOML file, the name of a built-in recipe, or fields that differ from the paper's recipe:
            `{"epochs": 10, "learning_rate": 1e-3}`. None for the paper's (Table 5).
        variant: a reduced network of the paper's ablation, of a HEMF.
        image_size: height and width of the input in pixels; None for the network's own, 224 for those of the paper.
        preprocess: "crop" resizes the shorter side and takes the centre; "squash" resizes both sides.
        teacher: a trained checkpoint of the same classes, for distillation.
        teacher_model: `package.module:function` of the teacher, if it is a network of your own.
        init: a checkpoint of the same network whose weights the training starts from, for example its authors'
            weights for ImageNet. Its classifier is left out if it has other classes.
        device: "auto", "cpu" or "cuda".
        amp: "float16", "bfloat16" or "off"; None for float16 on CUDA and off on a CPU, where float16 is slow and needs
            `device="cpu"`.
        channels_last: memory layout of weights and images.
        compile: train through torch.compile.
        workers: data loader processes; None for 0 on a CPU and up to 8 on CUDA.
        resume: continue the run in `output` from its last finished epoch.
        skip_unreadable: leave out images that don't decode, and count them.
        tensorboard: write each epoch's metrics for TensorBoard too, to `tensorboard` in the run's folder.
        progress: receives `TrainingBegun`, and each epoch's metrics as an `Epoch`, as events.

    Raises:
        BadInputError: the images, or a run in `output` of another configuration.
        MissingCapabilityError: a device or precision that isn't available.

    Examples:
        >>> run = hemf_export.train("data", "run", model="hemf-tiny", image_size=32, recipe={"epochs": 1})
        >>> run.checkpoint.name
        'best.pt'
    """
    from hemf_export.files import locks
    from hemf_export.networks.configuration import WHOLE
    from hemf_export.train import distributed, scalars
    from hemf_export.train.run import Options, check, prepare

    if tensorboard:
        scalars.check()
    options = Options(
        data=Path(data), output=Path(output), model=model, variant=WHOLE if variant is None else variant,
        image_size=image_size, mode=preprocess, device=device, amp=amp, channels_last=channels_last, compile=compile,
        workers=workers, resume=resume, skip_unreadable=skip_unreadable, teacher=path_of(teacher),
        teacher_model=teacher_model, init=path_of(init),
    )  # fmt: skip
    resolved = resolve_recipe(recipe)
    with distributed.joined(device):
        check(options, resolved)
        with distributed.current().once(locks.owned_folder(options.output)):
            recorded = _Recorded(progress)
            prepared = prepare(options, resolved, recorded)
            for note in prepared.notes:
                progress.note(note)
            progress.event(TrainingBegun(prepared.headline))
            if tensorboard and prepared.trainer.group.first:
                folder = prepared.trainer.run.path / "tensorboard"
                recorded.board = scalars.writer(folder, start=prepared.trainer.next_epoch + 1)
            summary = prepared.fit()
            if recorded.board is not None:
                recorded.board.close()
    return TrainResult(options.output, summary)


def ablate(
    data: PathLike, output: PathLike, *, configurations: PathLike | None = None, seeds: Sequence[int] | None = None,
    model: str = "hemf-base", recipe: Recipe | PathLike | Mapping[str, Any] | None = None,
    image_size: int | None = None, preprocess: Literal["crop", "squash"] = "crop", teacher: PathLike | None = None,
    teacher_model: str | None = None, device: Literal["auto", "cpu", "cuda"] = "auto", amp: str | None = None,
    channels_last: bool = True, compile: bool = False, workers: int | None = None, skip_unreadable: bool = False,
    bench_seconds: float = 30.0, progress: Progress = SILENT,
) -> Ablation:  # fmt: skip
    """Train several configurations one after another, each in a folder of its own, and compare them on test/.

    Configurations of different networks are compared as in the paper's Tables 6 to 9: size, metrics, latency of each on
    this machine, and McNemar's exact test of every pair. Those of one network are compared as in Table 10.

    Another call keeps finished configurations and resumes an interrupted one. One that fails doesn't stop the others.

    Args:
        data: folder with train/ and val/ (and test/), each with a folder of images per class.
        output: the folder of the run folders; ablation.json and ablation.md there have the results so far.
        configurations: TOML file that lists them, of one network or of several; None for the seven rows of the
            paper's Table 10.
        seeds: train each configuration with each of these; None for the recipe's.
        model: network of the configurations that name none; see `list_networks`.
        recipe: recipe for the fields that a configuration leaves out; see `train`.
        image_size: height and width of the input in pixels; None for the network's own.
        preprocess: "crop" resizes the shorter side and takes the centre; "squash" resizes both sides.
        teacher: a trained checkpoint of the same classes, for distillation.
        teacher_model: `package.module:function` of the teacher, if it is a network of your own.
        device: device to train on.
        amp: "float16", "bfloat16" or "off"; None for float16 on CUDA and off on a CPU, where float16 is slow and needs
            `device="cpu"`.
        channels_last: memory layout of weights and images.
        compile: train through torch.compile.
        workers: data loader processes; None for 0 on a CPU and up to 8 on CUDA.
        skip_unreadable: leave out images that don't decode, and count them.
        bench_seconds: time limit for timing different networks side by side, without their export; 0 for no timing.
        progress: receives each run as `MemberBegun`, `MemberTrains` and `Outcome`, and its epochs, as events.

    Returns:
        Results of each configuration; failed runs are in `failures`.

    Raises:
        BadInputError: the images, the file, or a folder with a run of another configuration.
        UsageError: an invalid list, or networks of different image sizes.
        MissingCapabilityError: a device or precision that isn't available.

    Examples:
        >>> ablation = hemf_export.ablate("data", "ablation", model="hemf-tiny")  # doctest: +SKIP
        >>> ablation.best.name  # doctest: +SKIP
        'best.pt'
    """
    from hemf_export.comparing import latency, report
    from hemf_export.files import locks
    from hemf_export.train import ablation, ablation_report
    from hemf_export.train import configurations as listing
    from hemf_export.train.run import Options

    if not 0 <= bench_seconds < float("inf"):
        raise UsageError(f"`bench_seconds` must not be negative, nor infinite: {bench_seconds}.")
    resolved = resolve_recipe(recipe)
    options = Options(
        data=Path(data), output=Path(output), model=model, image_size=image_size, mode=preprocess, device=device,
        amp=amp, channels_last=channels_last, compile=compile, workers=workers, skip_unreadable=skip_unreadable,
        teacher=path_of(teacher), teacher_model=teacher_model,
    )  # fmt: skip
    listed = listing.table_10(resolved) if configurations is None else listing.read(Path(configurations), resolved)
    members = ablation.plan(listed, options.output, seeds)
    several = len(ablation.models(listed, options)) > 1
    with locks.owned(options.output, *(member.folder for member in members)):
        images = ablation.check(members, options, progress)
        for note in images.notes:
            progress.note(note)
        if images.test is None:
            progress.note(
                f"{options.data} has no test/: the figures are of val/, which also chose the best epoch of each run."
            )

        def write(outcomes: list[Outcome]) -> None:
            if several:
                report.compare(outcomes, options, images).write(options.output)
                return
            ablation_report.write(ablation.rows(outcomes, options, images), options, images, options.output)

        outcomes = ablation.run(members, options, images, progress, write, predictions=several)
        if several:
            compared = report.compare(outcomes, options, images)
            if bench_seconds and (found := report.checkpoints(compared)):
                timed = latency.measure(found, seconds=bench_seconds, progress=progress)
                compared = dataclasses.replace(compared, latencies=timed)
                compared.write(options.output)
            return _ablation(
                options.output, compared.to_dict(), compared.title, compared.columns_and_cells(), outcomes,
                tuple(compared.tables()),
            )  # fmt: skip
    rows = ablation.rows(outcomes, options, images)
    return _ablation(
        options.output, ablation_report.to_dict(rows, options, images), ablation_report.title(rows, options, images),
        ablation_report.columns_and_cells(rows, options, images), outcomes,
    )  # fmt: skip


def _ablation(
    output: Path, values: Mapping[str, Any], title: str, table: tuple[list[str], list[tuple[str, ...]]],
    outcomes: Sequence[Outcome], parts: tuple[Table, ...] = (),
) -> Ablation:  # fmt: skip
    titles, cells = table
    trained = [outcome for outcome in outcomes if outcome.summary is not None]
    best = max(trained, key=lambda one: (one.summary or {})["splits"]["val"]["accuracy"], default=None)
    return Ablation(
        output, values, Table(title, tuple(titles), cells),
        tuple(
            FailedRun(outcome.member.folder.name, outcome.failure, outcome.error)
            for outcome in outcomes if outcome.error is not None
        ),
        None if best is None else best.member.folder / "best.pt",
        parts,
    )  # fmt: skip


def is_first_process() -> bool:
    """Whether this is the process that writes files and prints, of those that `torchrun` starts for a run.

    Raises:
        UsageError: torchrun's environment variables are invalid.
    """
    from hemf_export.train import distributed

    return distributed.launched().first


def recipe_file(recipe: Recipe | PathLike | Mapping[str, Any] | None = None) -> str:
    """Return a recipe as the text of a TOML file: each field with its value.

    Args:
        recipe: see `train`; None for the paper's.

    Raises:
        BadInputError, UsageError: no such file or field, or an invalid value.

    Examples:
        >>> "epochs = 3" in hemf_export.recipe_file({"epochs": 3})
        True
    """
    from hemf_export.train import recipe_file as files

    return files.dump(resolve_recipe(recipe))


class _Recorded:
    """Progress that writes epochs for TensorBoard, once a writer exists, and forwards everything."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.board: Scalars | None = None

    def task(self, text: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """See `Progress.task`."""
        return self._progress.task(text, total, unit)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._progress.note(text)

    def event(self, event: object) -> None:
        """See `Progress.event`."""
        from hemf_export.train.trainer import Epoch

        self._progress.event(event)
        if self.board is not None and isinstance(event, Epoch):
            self.board.add(event.metrics, event.number)


def resolve_recipe(recipe: Recipe | PathLike | Mapping[str, Any] | None) -> Recipe:
    """Resolve the `recipe` of `train` to a Recipe.

    Raises:
        BadInputError, UsageError: no such file or field, or an invalid value.
    """
    from hemf_export.train import recipe_file
    from hemf_export.train.recipe import Recipe

    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_file.resolve(None, {name: recipe_file.checked("recipe", name, recipe[name]) for name in recipe})
    return recipe_file.resolve(None if recipe is None else os.fspath(recipe), {})
