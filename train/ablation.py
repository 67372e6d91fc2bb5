"""An ablation: configurations trained one after another, each in its own folder, and the metrics that each reached.

A finished run is not repeated once its description has been compared; an interrupted one is resumed. A failure doesn't
stop the other runs.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.reading import Reading
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.networks import factory, registry
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.train import predictions as predictions_file
from hemf_export.train import run as training
from hemf_export.train.configurations import Configuration, refuse_repeated
from hemf_export.train.recipe import refuse_differences
from hemf_export.train.run import Images, Options
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import DivergedError

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro_f1", "macro_precision": "macro_precision",
           "macro_recall": "balanced_accuracy", "mcc": "mcc", "kappa": "kappa"}  # fmt: skip
Status = Literal["trained", "gone on", "finished before", "diverged", "failed"]


@dataclass(frozen=True)
class Member:
    """One training of an ablation: a configuration with one seed, and its folder."""

    configuration: Configuration
    folder: Path

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.configuration.recipe.seed


@dataclass(frozen=True)
class Outcome:
    """The result of one member: its summary, as in summary.json, or the error that ended it."""

    member: Member
    status: Status
    summary: dict[str, Any] | None = None
    error: Exception | None = None

    @property
    def failure(self) -> str:
        """Which run failed and why, in a line."""
        reason = str(self.error).splitlines()[0] if str(self.error) else type(self.error).__name__
        return f"{self.member.folder.name} failed: {reason}"

    def figures(self, split: str) -> dict[str, float] | None:
        """Metrics on a split, those of `FIGURES` that are defined; None if the member was not trained."""
        if self.summary is None:
            return None
        metrics = self.summary["splits"][split]
        return {name: float(metrics[source]) for name, source in FIGURES.items() if metrics.get(source) is not None}


@dataclass(frozen=True)
class Row:
    """The results of one configuration, over all its seeds.

    Args:
        configuration: the configuration; its recipe has the first seed.
        config: the network's configuration.
        parameters: number of parameters of the network.
        outcomes: one per seed.
        mean: mean of each metric over the seeds that were trained; empty if none was.
        deviation: sample standard deviation of each metric; empty if fewer than two seeds were trained.
    """

    configuration: Configuration
    config: NetworkConfig
    parameters: int
    outcomes: tuple[Outcome, ...]
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class MemberBegun:
    """Event: a member's turn has come.

    Args:
        member: the member.
        number: its place in the ablation, counted from 1.
        total: number of members.
    """

    member: Member
    number: int
    total: int


@dataclass(frozen=True)
class MemberTrains:
    """Event: the member is being trained; its epochs follow. `headline` names network, data and device."""

    headline: str


def plan(configurations: Sequence[Configuration], output: Path, seeds: Sequence[int] | None = None) -> list[Member]:
    """List the members in the order in which they run: all configurations with the first seed, then with the next.

    A configuration with its own seed is trained in OUTPUT/NAME, with another seed in OUTPUT/NAME-seedN, so that seeds
    can be added to an ablation later.

    Raises:
        UsageError: a seed is repeated or negative, or a configuration sets its own.
    """
    refuse_repeated(configurations)
    if seeds is None:
        return [Member(configuration, output / configuration.name) for configuration in configurations]
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError(f"Seeds must differ and not be negative: {', '.join(map(str, seeds))}.")
    fixed = [configuration.name for configuration in configurations if "seed" in configuration.fixed]
    if fixed:
        raise UsageError(f"The configuration {fixed[0]} has a seed of its own.", "Leave it out, or leave out `seeds`.")
    members = []
    for seed in seeds:
        for configuration in configurations:
            own = seed == configuration.recipe.seed
            folder = output / (configuration.name if own else f"{configuration.name}-seed{seed}")
            seeded = dataclasses.replace(configuration.recipe, seed=seed)
            members.append(Member(dataclasses.replace(configuration, recipe=seeded), folder))
    folders = [member.folder for member in members]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"Two runs would lie in {folder}.", "Rename a configuration.")
    return members


def reading(configuration: Configuration, options: Options) -> Reading:
    """Say how the checkpoints of a configuration's runs are read: those of a user's own network by its factory."""
    (model,) = models([configuration], options)
    return Reading(factory=model if factory.is_name(model) else None)


def check(members: Sequence[Member], options: Options, progress: Progress = SILENT) -> Images:
    """Read the images, and check before any training that every member can be trained or resumed.

    Raises:
        BadInputError: the data or a network is invalid, or a folder holds a run of another description.
        MissingCapabilityError: CUDA was requested and is not available.
    """
    options.chosen_hardware()
    _refuse_several_sizes({_options(member, options).config(num_classes=2).image_size for member in members})
    with artifacts.new_folders(*(member.folder for member in members)):
        images = training.read_images(options, progress)
        _refuse_other_runs(members, options, images)
    return images


def _refuse_several_sizes(sizes: Collection[int]) -> None:
    """Raise UsageError where networks would see images of different sizes: their figures can't be compared."""
    if len(sizes) > 1:
        sorted_sizes = sorted(sizes)
        raise UsageError(
            f"These networks take images of {', '.join(map(str, sorted_sizes))} pixels by themselves.",
            f"Say one size for all: `image_size={sorted_sizes[0]}`.",
        )


def _refuse_other_runs(members: Sequence[Member], options: Options, images: Images) -> None:
    for member in members:
        saved = _saved_description(member.folder, reading(member.configuration, options))
        if saved is None:
            continue
        job = training.describe(_options(member, options), member.configuration.recipe, images)
        try:
            refuse_differences(saved, job.description())
        except BadInputError as error:
            raise BadInputError(f"{member.folder}: {error.message}", error.hint) from error


def _options(member: Member, options: Options) -> Options:
    own = member.configuration
    model = options.model if own.model is None else own.model
    return dataclasses.replace(options, output=member.folder, model=model, variant=own.variant)


def models(configurations: Iterable[Configuration], options: Options) -> tuple[str, ...]:
    """List the networks that are compared, each once, as `Options.model` names them."""
    own = (configuration.model for configuration in configurations)
    return tuple(dict.fromkeys(options.model if model is None else model for model in own))


def _saved_description(folder: Path, reading: Reading) -> dict[str, Any] | None:
    """The description that a run was started with; None if there is no run. A damaged file is reported at its turn."""
    last = RunFolder(folder, resume=True).last
    try:
        saved = checkpoint.load(last, reading=reading) if last.exists() else None
    except BadInputError:
        return None
    return None if saved is None or saved.training is None else saved.training["description"]


def run(
    members: Sequence[Member], options: Options, images: Images, progress: Progress = SILENT,
    done: Callable[[list[Outcome]], None] = lambda _: None, *, predictions: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Train each member that isn't finished. An interruption ends the ablation, any other failure only its member.

    Args:
        members: as `plan` returns them.
        options: common to all members, except that `output`, `model`, `variant` and `resume` are set for each.
        images: the images of `options.data`, as `check` returns them.
        progress: receives the progress, and the events `MemberBegun`, `MemberTrains`, `Epoch` and `Outcome`.
        done: called with the outcomes so far, after each.
        predictions: compute the predictions.npz of a run that was finished without.
    """
    outcomes: list[Outcome] = []
    for number, member in enumerate(members, 1):
        progress.event(MemberBegun(member, number, len(members)))
        try:
            with locks.owned_folder(member.folder):
                outcome = _run(member, options, images, progress, predictions=predictions)
        except DivergedError as error:
            outcome = Outcome(member, "diverged", error=error)
        except Exception as error:  # noqa: BLE001 - the other members go on; the caller reports it at the end
            outcome = Outcome(member, "failed", error=error)
        _free(outcome.error)
        outcomes.append(outcome)
        progress.event(outcome)
        done(outcomes)
    return outcomes


def _run(member: Member, options: Options, images: Images, progress: Progress, *, predictions: bool) -> Outcome:
    folder = RunFolder(member.folder, resume=True)
    resume = folder.last.exists()
    if not resume:
        _clear_stray(folder)
    configuration = member.configuration
    own = dataclasses.replace(_options(member, options), resume=resume)
    started = training.prepare(own, configuration.recipe, progress, images)  # refuses a run of another description
    finished = _finished(folder, started.trainer.next_epoch, configuration, images)
    if finished is not None:
        if predictions and predicted(member.folder, finished, images) is None:
            with progress.task(f"Predicting with {member.folder.name}"):
                started.predict()
        return Outcome(member, "finished before", finished)
    progress.event(MemberTrains(started.headline))
    return Outcome(member, "gone on" if resume else "trained", started.fit())


def predicted(folder: Path, summary: Mapping[str, Any], images: Images) -> NDArray[np.float32] | None:
    """Read a finished run's logits (images, classes) of the images that it is judged on; None without valid ones.

    Args:
        folder: the run's folder.
        summary: its summary.
        images: the images of the ablation.
    """
    split = judged_on(images)
    path = RunFolder(folder, resume=True).predictions
    return predictions_file.read(path, summary["checkpoint_sha256"], split, images.splits[split])


def _free(error: BaseException | None) -> None:
    """Free the network of a run, and what the frames of its error hold: the next run may need the GPU's memory."""
    freed: list[BaseException] = []  # errors may refer to each other
    while error is not None and error not in freed:
        traceback.clear_frames(error.__traceback__)
        freed.append(error)
        error = error.__cause__ or error.__context__
    gc.collect()  # networks and optimizers refer to themselves


def _clear_stray(folder: RunFolder) -> None:
    """Remove what a kill during the first epoch's writes leaves: a best.pt or a line of metrics, but no last.pt."""
    if not folder.summary.exists():
        folder.best.unlink(missing_ok=True)
        folder.metrics.unlink(missing_ok=True)


def _finished(
    folder: RunFolder, next_epoch: int, configuration: Configuration, images: Images
) -> dict[str, Any] | None:
    """The summary of a run that has all its epochs, if it belongs to its best.pt and to these images; else None."""
    if next_epoch < configuration.recipe.epochs:
        return None
    summary = folder.read_summary()
    if summary is None or not folder.best.exists() or summary["checkpoint_sha256"] != artifacts.sha256(folder.best):
        return None
    expected = {"val": len(images.validation), **({"test": len(images.test)} if images.test is not None else {})}
    counts = {split: figures["images"] for split, figures in summary["splits"].items()}
    return summary if counts == expected else None


def rows(outcomes: Sequence[Outcome], options: Options, images: Images) -> list[Row]:
    """Group the outcomes by configuration, in the order in which they were run."""
    split = judged_on(images)
    names = list(dict.fromkeys(outcome.member.configuration.name for outcome in outcomes))
    table = []
    for name in names:
        own = tuple(outcome for outcome in outcomes if outcome.member.configuration.name == name)
        configuration = own[0].member.configuration
        config = _options(own[0].member, options).config(len(images.train.classes))
        figures = [each for outcome in own if (each := outcome.figures(split)) is not None]
        reached = {key: [each[key] for each in figures if key in each] for key in FIGURES}
        mean = {key: statistics.fmean(values) for key, values in reached.items() if values}
        deviation = {key: statistics.stdev(values) for key, values in reached.items() if len(values) > 1}
        table.append(Row(configuration, config, registry.count_parameters(config), own, mean, deviation))
    return table


def judged_on(images: Images) -> Literal["test", "val"]:
    """The split whose metrics are compared."""
    return "val" if images.test is None else "test"
