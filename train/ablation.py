"""An ablation: one configuration after another trained in a folder of its own, then what each reached.

Runs that are finished are not run again, after their description was compared; one that was cut goes on. What fails
doesn't stop the others.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.networks.config import HemfConfig
from hemf_export.networks.count import count_parameters
from hemf_export.train import run as training
from hemf_export.train.configurations import Configuration, refuse_repeated
from hemf_export.train.recipe import refuse_differences
from hemf_export.train.run import Images, Options
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import DivergedError

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro_f1", "macro_precision": "macro_precision",
           "macro_recall": "balanced_accuracy"}  # fmt: skip
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
    """What became of a member: `summary` as in its summary.json, or the error."""

    member: Member
    status: Status
    summary: dict[str, Any] | None = None
    error: Exception | None = None

    def figures(self, split: str) -> dict[str, float] | None:
        """Accuracy and macro F1, precision and recall, 0 to 1."""
        if self.summary is None:
            return None
        found = self.summary["splits"][split]
        return {name: float(found[source]) for name, source in FIGURES.items()}


@dataclass(frozen=True)
class Row:
    """One configuration with all its seeds.

    Args:
        configuration: its recipe has the first seed.
        config: its network.
        parameters: of the network.
        outcomes: one a seed.
        mean: over the seeds that were trained, by figure; empty where none was.
        deviation: the standard deviation of a sample; empty where fewer than two were.
    """

    configuration: Configuration
    config: HemfConfig
    parameters: int
    outcomes: tuple[Outcome, ...]
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class MemberBegun:
    """A member is next.

    Args:
        member: which.
        number: counted from 1.
        total: of all members.
    """

    member: Member
    number: int
    total: int


@dataclass(frozen=True)
class MemberTrains:
    """The member that has begun isn't finished yet: its epochs follow. `headline` says what is trained on what."""

    headline: str


def plan(configurations: Sequence[Configuration], output: Path, seeds: Sequence[int] | None = None) -> list[Member]:
    """The members, in the order in which they are run: all configurations with the first seed, then with the next.

    A configuration with its own seed lies in OUTPUT/NAME, with another seed in OUTPUT/NAME-seedN: seeds may be added
    to an ablation later.

    Raises:
        UsageError: a seed twice or negative, or seeds for a configuration that fixes its own.
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


def check(members: Sequence[Member], options: Options, progress: Progress = SILENT) -> Images:
    """Read the images, and see before any training that all members can be trained, or gone on with.

    Raises:
        BadInputError: the data, a network that can't be, or a folder with a run of another description.
        MissingCapabilityError: CUDA asked for and not there.
    """
    options.chosen_hardware()
    for member in members:
        _options(member, options).config(num_classes=2)
        artifacts.check_folder(member.folder)
    images = training.read_images(options, progress)
    for member in members:
        saved = _saved_description(member.folder)
        if saved is None:
            continue
        job = training.describe(_options(member, options), member.configuration.recipe, images)
        try:
            refuse_differences(saved, job.description())
        except BadInputError as error:
            raise BadInputError(f"{member.folder}: {error.message}", error.hint) from error
    return images


def _options(member: Member, options: Options) -> Options:
    return dataclasses.replace(options, output=member.folder, variant=member.configuration.variant)


def _saved_description(folder: Path) -> dict[str, Any] | None:
    """What a run was started with; None where there is none. A damaged file is told when its turn comes."""
    last = RunFolder(folder, resume=True).last
    try:
        saved = checkpoint.load(last) if last.exists() else None
    except BadInputError:
        return None
    return None if saved is None or saved.training is None else saved.training["description"]


def run(
    members: Sequence[Member], options: Options, images: Images, progress: Progress = SILENT,
    done: Callable[[list[Outcome]], None] = lambda _: None,
) -> list[Outcome]:  # fmt: skip
    """Train each member that isn't finished; an interruption ends it, any other failure only its member.

    Args:
        members: of `plan`.
        options: for all of them; `output`, `variant` and `resume` are each member's own.
        images: of `options.data`.
        progress: receives how far it is, and as events each `MemberBegun`, `MemberTrains`, `Epoch` and `Outcome`.
        done: called with the outcomes so far, after each.
    """
    outcomes: list[Outcome] = []
    for number, member in enumerate(members, 1):
        progress.event(MemberBegun(member, number, len(members)))
        try:
            with locks.owned_folder(member.folder):
                outcome = _run(member, options, images, progress)
        except DivergedError as error:
            outcome = Outcome(member, "diverged", error=error)
        except Exception as error:  # noqa: BLE001 - the others must not be lost with it; the caller tells it at the end
            outcome = Outcome(member, "failed", error=error)
        outcomes.append(outcome)
        progress.event(outcome)
        done(outcomes)
    return outcomes


def _run(member: Member, options: Options, images: Images, progress: Progress) -> Outcome:
    folder = RunFolder(member.folder, resume=True)
    resume = folder.last.exists()
    if not resume:
        _clear_stray(folder)
    configuration = member.configuration
    own = dataclasses.replace(_options(member, options), resume=resume)
    started = training.prepare(own, configuration.recipe, progress, images)  # refuses a run of another description
    finished = _finished(folder, started.trainer.next_epoch, configuration, images)
    if finished is not None:
        return Outcome(member, "finished before", finished)
    progress.event(MemberTrains(started.headline))
    return Outcome(member, "gone on" if resume else "trained", started.fit())


def _clear_stray(folder: RunFolder) -> None:
    """What a kill within the first epoch's writes leaves: a best.pt or a line of metrics, but nothing to go on from."""
    if not folder.summary.exists():
        folder.best.unlink(missing_ok=True)
        folder.metrics.unlink(missing_ok=True)


def _finished(
    folder: RunFolder, next_epoch: int, configuration: Configuration, images: Images
) -> dict[str, Any] | None:
    """The summary of a run that has all its epochs, where it is that of its best.pt and of these images."""
    if next_epoch < configuration.recipe.epochs:
        return None
    summary = folder.read_summary()
    if summary is None or not folder.best.exists() or summary["checkpoint_sha256"] != artifacts.sha256(folder.best):
        return None
    expected = {"val": len(images.validation), **({"test": len(images.test)} if images.test is not None else {})}
    found = {split: figures["images"] for split, figures in summary["splits"].items()}
    return summary if found == expected else None


def rows(outcomes: Sequence[Outcome], options: Options, images: Images) -> list[Row]:
    """The outcomes by configuration, in the order in which they first came."""
    split = judged_on(images)
    names = list(dict.fromkeys(outcome.member.configuration.name for outcome in outcomes))
    found = []
    for name in names:
        own = tuple(outcome for outcome in outcomes if outcome.member.configuration.name == name)
        configuration = own[0].member.configuration
        config = dataclasses.replace(options, variant=configuration.variant).config(len(images.train.classes))
        figures = [each for outcome in own if (each := outcome.figures(split)) is not None]
        mean = {key: statistics.fmean(each[key] for each in figures) for key in FIGURES if figures}
        deviation = {key: statistics.stdev(each[key] for each in figures) for key in FIGURES if len(figures) > 1}
        found.append(Row(configuration, config, count_parameters(config), own, mean, deviation))
    return found


def judged_on(images: Images) -> Literal["test", "val"]:
    """The split whose figures are compared."""
    return "val" if images.test is None else "test"
