"""One whole run, as the command starts it: checks first, then training, then the summary of the best checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from hemf import artifacts, checkpoint, folders
from hemf.config import registered
from hemf.errors import BadInputError, MissingCapabilityError
from hemf.folders import LabelledImages
from hemf.images import Preprocess
from train import data, distillation, figures, loop, metrics
from train.recipe import Recipe
from train.run_folder import RunFolder

_SHOWN = 20  # unreadable files named in a message


@dataclass(frozen=True)
class Options:
    """What a run is started with, besides its recipe; see `hemf-export train --help`."""

    data: Path
    output: Path
    model: str = "hemf-base"
    image_size: int = 224
    mode: Literal["crop", "squash"] = "crop"
    device: str = "auto"
    amp: bool = True
    workers: int | None = None
    resume: bool = False
    skip_unreadable: bool = False
    teacher: Path | None = None


class Listener(loop.Listener, Protocol):
    """Also hears of the images being read before the first epoch."""

    def checking(self, total: int) -> None: ...

    def checked(self) -> None: ...


@dataclass
class Run:
    """A run that passed every check. `fit` trains it; `headline` and `notes` are for the user."""

    trainer: loop.Trainer
    test: LabelledImages | None
    listener: Listener
    headline: str
    notes: list[str]

    def fit(self) -> dict[str, Any]:
        """Train to the end and write summary.json and confusion.png; the summary."""
        self.trainer.fit(self.listener)
        folder, job = self.trainer.run, self.trainer.job
        best = checkpoint.load(folder.best)
        self.trainer.model.load_state_dict(best.state)
        splits = {"val": job.validation, **({"test": self.test} if self.test is not None else {})}
        results: dict[str, Any] = {}
        for name, images in splits.items():
            assert images.labels is not None
            results[name] = metrics.summarize(images.labels, self.trainer.predict(images), images.classes)
        shown = "test" if "test" in results else "val"
        title = f"{job.config.name}, {shown}: {results[shown]['accuracy']:.2%} of {results[shown]['images']}"
        figures.save_confusion(results[shown]["confusion"], job.train.classes, title, folder.confusion)
        summary = {"epoch": best.metrics["epoch"], "checkpoint_sha256": best.sha256, "splits": results}
        artifacts.write_json(folder.summary, summary)
        return summary


def prepare(options: Options, recipe: Recipe, listener: Listener) -> Run:
    """Check everything that can be checked before the first epoch.

    Raises:
        BadInputError: data, output or configuration that can't be trained.
        MissingCapabilityError: CUDA asked for and not there.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MissingCapabilityError(
            "No CUDA GPU can be used here.", "Leave out --device, or install a CUDA build of torch."
        )
    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if options.teacher is None:
        recipe.refuse_without_teacher()
    registered(options.model, image_size=options.image_size)  # a wrong name or size is told first
    run = RunFolder(options.output, resume=options.resume)
    train, validation, test = data.load_splits(options.data)
    preprocess = Preprocess.for_size(options.image_size, options.mode)
    teacher = None
    if options.teacher is not None:
        teacher = distillation.load(options.teacher, train.classes, preprocess, device)
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
    job = loop.Job(
        config=registered(options.model, num_classes=len(train.classes), image_size=options.image_size),
        recipe=recipe,
        preprocess=preprocess,
        train=kept[0],
        validation=kept[1],
        device=device,
        workers=options.workers if options.workers is not None else _default_workers(device),
        amp=options.amp,
        teacher=teacher,
    )
    trainer = loop.Trainer(job, run, resume=options.resume)
    precision = "float16 autocast" if trainer.use_amp else "float32"
    start = f", going on after epoch {trainer.next_epoch}" if options.resume else ""
    taught = "" if teacher is None else f", taught by a {teacher.name}"
    headline = (
        f"{job.config.name}, {len(job.train.classes)} classes, {len(job.train)} training and {len(job.validation)} "
        f"validation images, {recipe.epochs} epochs of {trainer.steps} steps, on {device} in {precision}{taught}{start}"
    )
    return Run(trainer, kept[2] if test is not None else None, listener, headline, notes)


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


def _default_workers(device: str) -> int:
    return 0 if device == "cpu" else min(8, os.cpu_count() or 1)
