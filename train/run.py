"""One whole run, as the command starts it: checks first, then training, then the summary of the best checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from hemf import artifacts, checkpoint, folders
from hemf.config import registered
from hemf.errors import BadInputError
from hemf.folders import LabelledImages
from hemf.images import Preprocess
from train import data, distillation, distributed, figures, hardware, metrics, trainer
from train.distillation import Teacher
from train.job import Job
from train.recipe import Recipe
from train.run_folder import RunFolder

_SHOWN = 20  # unreadable files named in a message


@dataclass(frozen=True)
class Options:
    """What a run is started with, besides its recipe; see `hemf-export train --help`.

    Args:
        amp: "off", "float16" or "bfloat16"; by default float16 on CUDA and off on a CPU.
        workers: loader processes of each process; by default none on a CPU, and up to 8 on CUDA.
        teacher: a checkpoint to learn from as well.
    """

    data: Path
    output: Path
    model: str = "hemf-base"
    image_size: int = 224
    mode: Literal["crop", "squash"] = "crop"
    device: str = "auto"
    amp: str | None = None
    channels_last: bool = True
    compile: bool = False
    workers: int | None = None
    resume: bool = False
    skip_unreadable: bool = False
    teacher: Path | None = None


class Listener(trainer.Listener, Protocol):
    """Also hears of the images being read before the first epoch."""

    def checking(self, total: int) -> None: ...

    def checked(self) -> None: ...


@dataclass
class Run:
    """A run that passed every check. `fit` trains it; `headline` and `notes` are for the user."""

    trainer: trainer.Trainer
    test: LabelledImages | None
    listener: Listener
    headline: str
    notes: list[str]

    def fit(self) -> dict[str, Any]:
        """Train to the end and write summary.json and confusion.png; the summary, in each process of the run."""
        self.trainer.fit(self.listener)
        folder, job, group = self.trainer.run, self.trainer.job, self.trainer.group
        best = group.from_first(lambda: checkpoint.load(folder.best))
        self.trainer.model.load_state_dict(best.state)
        splits = {"val": job.validation, **({"test": self.test} if self.test is not None else {})}
        results: dict[str, Any] = {}
        for name, images in splits.items():
            assert images.labels is not None
            results[name] = metrics.summarize(images.labels, self.trainer.predict(images), images.classes)
        summary = {"epoch": best.metrics["epoch"], "checkpoint_sha256": best.sha256, "splits": results}
        if group.first:
            shown = "test" if "test" in results else "val"
            title = f"{job.config.name}, {shown}: {results[shown]['accuracy']:.2%} of {results[shown]['images']}"
            figures.save_confusion(results[shown]["confusion"], job.train.classes, title, folder.confusion)
            artifacts.write_json(folder.summary, summary)
        return summary


def prepare(options: Options, recipe: Recipe, listener: Listener) -> Run:
    """Check everything that can be checked before the first epoch.

    Of several processes (see `train.distributed`), the first one reads and checks the images for all.

    Raises:
        BadInputError: data, output or configuration that can't be trained.
        MissingCapabilityError: a device or a precision asked for and not there.
        UsageError: a batch that can't be divided as asked for.
    """
    chosen = hardware.choose(options.device, options.amp, channels_last=options.channels_last, compile=options.compile)
    if options.teacher is None:
        recipe.refuse_without_teacher()
    registered(options.model, image_size=options.image_size)  # a wrong name or size is told first
    group = distributed.current()
    run, train, validation, test, notes = group.from_first(lambda: _examine(options, listener))
    teacher = _teacher(options, train, chosen.device)
    job = Job(
        config=registered(options.model, num_classes=len(train.classes), image_size=options.image_size),
        recipe=recipe,
        preprocess=_preprocess(options),
        train=train,
        validation=validation,
        hardware=chosen,
        workers=options.workers if options.workers is not None else _default_workers(chosen.device, group.local_size),
        teacher=teacher,
    )
    made = trainer.Trainer(job, run, resume=options.resume)
    processes = f", {group.size} processes" if group.size > 1 else ""
    start = f", going on after epoch {made.next_epoch}" if options.resume else ""
    taught = "" if teacher is None else f", taught by a {teacher.name}"
    where = f"{chosen.describe()}{processes}{taught}{start}"
    headline = (
        f"{job.config.name}, {len(job.train.classes)} classes, {len(job.train)} training and {len(job.validation)} "
        f"validation images, {recipe.epochs} epochs of {made.steps} steps, {where}"
    )
    return Run(made, test, listener, headline, notes)


def _examine(
    options: Options, listener: Listener
) -> tuple[RunFolder, LabelledImages, LabelledImages, LabelledImages | None, list[str]]:
    """The run's folder, the images that can be read, and what the user should know of them."""
    run = RunFolder(options.output, resume=options.resume)
    train, validation, test = data.load_splits(options.data)
    _teacher(options, train)  # one that can't teach is told before the images are read
    notes: list[str] = []
    kept: list[LabelledImages] = []
    listener.checking(sum(len(images) for images in (train, validation, test) if images is not None))
    for images in (train, validation, *([test] if test is not None else [])):
        readable, skipped = _check(images, skip=options.skip_unreadable, progress=listener.checked)
        kept.append(readable)
        notes.extend(skipped)
    if len(kept[0]) < 2:
        raise BadInputError(f"{options.data / 'train'} has {len(kept[0])} image; at least 2 are needed.")
    if len(train.classes) < 2:
        raise BadInputError(f"{options.data / 'train'} has one class, {train.classes[0]}; a classifier needs two.")
    return run, kept[0], kept[1], kept[2] if test is not None else None, notes


def _teacher(options: Options, train: LabelledImages, device: str = "cpu") -> Teacher | None:
    if options.teacher is None:
        return None
    return distillation.load(options.teacher, train.classes, _preprocess(options), device)


def _preprocess(options: Options) -> Preprocess:
    return Preprocess.for_size(options.image_size, options.mode)


def _check(images: LabelledImages, *, skip: bool, progress: Callable[[], None]) -> tuple[LabelledImages, list[str]]:
    """Decode every image once; all that fail are named, or left out and counted if `skip`."""
    bad = folders.unreadable(images, progress)
    if not bad:
        return images, []
    reasons = list(bad.values())
    listed = "\n  ".join(reasons[:_SHOWN]) + (
        f"\n  … and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    )
    if not skip:
        raise BadInputError(
            f"{len(bad)} of {len(images)} images below {images.root} can't be read:\n  {listed}",
            "Mend or remove them, or leave them out with --skip-unreadable.",
        )
    readable = images.select([index for index in range(len(images)) if index not in bad])
    assert readable.labels is not None
    lost = sorted(set(range(len(images.classes))) - set(readable.labels))
    if lost:
        raise BadInputError(f"No image of {images.classes[lost[0]]} below {images.root} can be read.")
    return readable, [f"{len(bad)} unreadable images left out below {images.root}:\n  {listed}"]


def _default_workers(device: str, processes: int) -> int:
    return 0 if device == "cpu" else max(1, min(8, (os.cpu_count() or 1) // processes))
