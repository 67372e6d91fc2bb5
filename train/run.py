"""A complete run: checks first, then training, then the summary of the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.checkpoints.reading import Reading
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import CheckFailedError
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess
from hemf_export.metrics import classification
from hemf_export.metrics.percentage import percentage
from hemf_export.networks import factory
from hemf_export.networks.configuration import WHOLE, NetworkConfig
from hemf_export.networks.registry import family_of, registered
from hemf_export.train import (
    distillation,
    distributed,
    figures,
    hardware,
    initial_weights,
    predictions,
    trainer,
)
from hemf_export.train.datasets import checks
from hemf_export.train.distillation import Teacher
from hemf_export.train.hardware import Hardware
from hemf_export.train.initial_weights import InitialWeights
from hemf_export.train.job import Job
from hemf_export.train.recipe import Recipe
from hemf_export.train.run_folder import RunFolder


@dataclass(frozen=True)
class Options:
    """The options of a run, besides its recipe.

    Args:
        data: folder with train/, val/ and, if there is one, test/.
        output: the run's folder.
        model: name of a registered network, or the factory `package.module:function` of one of the user's own.
        variant: a variant of `networks.hemf.variants`.
        image_size: input height and width in pixels, a multiple of 32.
        mode: "crop" or "squash"; see `images.images.Preprocess`.
        device: "auto", "cpu" or "cuda".
        amp: "off", "float16" or "bfloat16"; by default float16 on CUDA and off on a CPU. See `train.hardware.choose`.
        channels_last: keep weights and images in channels-last memory format.
        compile: run the training network through `torch.compile`.
        workers: loader processes per process; by default 0 on a CPU, and up to 8 on CUDA.
        resume: go on with the run in `output`.
        skip_unreadable: leave out images that can't be decoded, instead of refusing the data.
        teacher: checkpoint to distil from; None for none.
        teacher_model: factory of the teacher, if it is a network of the user's own.
        init: checkpoint whose weights the training starts from; None for the network's initialization.
    """

    data: Path
    output: Path
    model: str = "hemf-base"
    variant: str = WHOLE
    image_size: int | None = None
    mode: Literal["crop", "squash"] = "crop"
    device: str = "auto"
    amp: str | None = None
    channels_last: bool = True
    compile: bool = False
    workers: int | None = None
    resume: bool = False
    skip_unreadable: bool = False
    teacher: Path | None = None
    teacher_model: str | None = None
    init: Path | None = None

    def config(self, num_classes: int) -> NetworkConfig:
        """The network's configuration.

        Raises:
            BadInputError: there is no such model, variant or image size.
        """
        return registered(self.model, num_classes=num_classes, image_size=self.image_size, variant=self.variant)

    def preprocess(self) -> Preprocess:
        """How images become input tensors."""
        return Preprocess.for_size(self.config(num_classes=2).image_size, self.mode)

    def loaded_teacher(self, classes: Sequence[str], device: str = "cpu") -> Teacher | None:
        """Load the teacher for these classes; None if there is none.

        Raises:
            BadInputError: the file is not a checkpoint, or has other classes.
        """
        if self.teacher is None:
            return None
        reading = Reading(factory=self.teacher_model)
        return distillation.load(self.teacher, classes, self.preprocess(), device, reading)

    def initial_weights(self, classes: Sequence[str]) -> InitialWeights | None:
        """Read the initial weights for these classes; None if there are none.

        Raises:
            BadInputError: the file is not a checkpoint, or has another network's weights.
        """
        if self.init is None:
            return None
        reading = Reading(factory=self.model if factory.is_name(self.model) else None)
        return initial_weights.load(self.init, self.config(len(classes)), classes, reading)

    def chosen_hardware(self) -> Hardware:
        """The device and precision.

        Raises:
            MissingCapabilityError: a device or a precision was requested and is not available.
        """
        return hardware.choose(self.device, self.amp, channels_last=self.channels_last, compile=self.compile)


@dataclass(frozen=True)
class Images:
    """The images of a run, each decoded once as a check; `notes` say which were left out, and other findings."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages | None
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[str, LabelledImages]:
        """The splits by name: train, val and, if there is one, test."""
        splits = {"train": self.train, "val": self.validation}
        return splits if self.test is None else {**splits, "test": self.test}


@dataclass
class Run:
    """A run that has passed every check. `fit` trains it; `headline` and `notes` are for the user."""

    trainer: trainer.Trainer
    test: LabelledImages | None
    progress: Progress
    headline: str
    notes: list[str]

    def fit(self) -> dict[str, Any]:
        """Train to the end; write predictions.npz, summary.json, confusion.png and curve.png.

        Returns:
            The summary, in each process of the run.

        Raises:
            InUseError: another process is training into the folder.
            CheckFailedError: the training diverged, or the best epoch's logits are not finite.
            HemfError: see `Trainer.fit`.
        """
        with self.trainer.group.once(locks.owned(self.trainer.run.path)):
            return self._fit()

    def _fit(self) -> dict[str, Any]:
        self.trainer.fit(self.progress)
        folder, group = self.trainer.run, self.trainer.group
        best, logits = self.predict()
        results: dict[str, Any] = {}
        for name, images in self._judged.items():
            assert images.labels is not None
            results[name] = classification.summarize(images.labels, logits[name], images.classes)
        summary = {"epoch": best.metrics["epoch"], "checkpoint_sha256": best.sha256, "splits": results}
        if group.first:
            self._draw(summary)
            artifacts.write_json(folder.summary, summary)
        return summary

    def predict(self) -> tuple[Checkpoint, dict[str, NDArray[np.float32]]]:
        """Compute the logits of the best epoch on val and test, and write them to predictions.npz.

        Returns:
            The best checkpoint, and logits (images, classes) by split, in each process of the run.

        Raises:
            CheckFailedError: logits that are not finite.
            HemfError: see `Trainer.predict`.
        """
        folder, group, reading = self.trainer.run, self.trainer.group, self.trainer.job.reading
        best = group.from_first(lambda: checkpoint.load(folder.best, reading=reading))
        self.trainer.model.load_state_dict(best.state)
        logits: dict[str, NDArray[np.float32]] = {}
        for name, images in self._judged.items():
            logits[name] = self.trainer.predict(images)
            if bad := int((~np.isfinite(logits[name]).all(1)).sum()):
                raise CheckFailedError(
                    f"{folder.best}: the logits of {bad} of {len(images)} {name} images are not finite.",
                    "Its activations overflow: train again with a lower `learning_rate`.",
                )
        if group.first:
            predictions.write(folder.predictions, best.sha256, self._judged, logits)
        return best, logits

    @property
    def _judged(self) -> dict[str, LabelledImages]:
        return {"val": self.trainer.job.validation, **({"test": self.test} if self.test is not None else {})}

    def _draw(self, summary: dict[str, Any]) -> None:
        """Draw the learning curve, and the best epoch's confusion matrix on the test images, or without them on val."""
        folder, name, splits = self.trainer.run, self.trainer.job.config.name, summary["splits"]
        shown = "test" if "test" in splits else "val"
        result = splits[shown]
        title = f"{name}, {shown}: {percentage(result['accuracy'], result['images'])} of {result['images']}"
        matrix = figures.confusion(result["confusion"], self.trainer.job.train.classes, title)
        curve = figures.learning_curve(folder.read_metrics(), summary["epoch"], f"{name}, {folder.name}")
        figures.save(matrix, folder.confusion)
        figures.save(curve, folder.curve)


def check(options: Options, recipe: Recipe) -> None:
    """Check what can be checked before any file is read or folder made.

    Raises:
        BadInputError: there is no such model, variant or image size.
        MissingCapabilityError: a device or a precision was requested and is not available.
        UsageError: the recipe needs a teacher, and there is none.
    """
    if options.teacher is None:
        recipe.refuse_without_teacher()
    options.chosen_hardware()
    options.config(num_classes=2)


def prepare(options: Options, recipe: Recipe, progress: Progress = SILENT, images: Images | None = None) -> Run:
    """Check everything that can be checked before the first epoch.

    With several processes (see `train.distributed`), the first one reads and checks the images for all.

    Args:
        options: network, data and hardware.
        recipe: hyperparameters.
        progress: receives the progress of the checks, and later of the training; see `Trainer.fit`.
        images: the images of `options.data`, if they were read already.

    Raises:
        BadInputError: data, output or configuration can't be used.
        MissingCapabilityError: a device or a precision was requested and is not available.
        UsageError: a batch can't be divided into the micro-batches and processes.
    """
    check(options, recipe)
    group = distributed.current()
    run, images = group.from_first(
        lambda: (RunFolder(options.output, resume=options.resume), images or read_images(options, progress))
    )
    job = describe(options, recipe, images)
    if job.hardware.device == "cpu":
        hardware.keep_freed_memory()
    training = trainer.Trainer(job, run, resume=options.resume)
    processes = f", {group.size} processes" if group.size > 1 else ""
    start = f", going on after epoch {training.next_epoch}" if options.resume else ""
    taught = "" if job.teacher is None else f", taught by a {job.teacher.name}"
    where = f"{job.hardware.describe()}{processes}{taught}{start}"
    headline = (
        f"{job.config.name}, {len(job.train.classes)} classes, {len(job.train)} training and {len(job.validation)} "
        f"validation images, {recipe.epochs} epochs of {training.steps} steps, {where}"
    )
    started = [] if job.initial is None else [job.initial.describe()]
    return Run(training, images.test, progress, headline, [*started, *images.notes, *job.hardware.caveats])


def describe(options: Options, recipe: Recipe, images: Images) -> Job:
    """Make the job that `prepare` trains."""
    chosen_hardware = options.chosen_hardware()
    workers = options.workers
    if workers is None:
        workers = _default_workers(chosen_hardware.device, distributed.current().local_size)
    return Job(
        config=options.config(len(images.train.classes)),
        recipe=recipe,
        preprocess=options.preprocess(),
        train=images.train,
        validation=images.validation,
        hardware=chosen_hardware,
        workers=workers,
        teacher=options.loaded_teacher(images.train.classes, chosen_hardware.device),
        initial=options.initial_weights(images.train.classes),
    )


def read_images(options: Options, progress: Progress = SILENT) -> Images:
    """List the images of the splits, and decode each once as a check; see `train.datasets.checks`.

    Raises:
        BadInputError: images can't be read, unless they are left out; or there are too few, or only one class.
    """
    splits = checks.load_splits(options.data)
    # Checked first, as reading the images takes longer.
    config = options.config(len(splits["train"].classes))
    family_of(config).check_training(config)
    options.loaded_teacher(splits["train"].classes)
    options.initial_weights(splits["train"].classes)
    checked = checks.check(splits, skip=options.skip_unreadable, progress=progress)
    return Images(checked.splits["train"], checked.splits["val"], checked.splits.get("test"), tuple(checked.notes))


def _default_workers(device: str, processes: int) -> int:
    return 0 if device == "cpu" else max(1, min(8, usable_cores() // processes))
