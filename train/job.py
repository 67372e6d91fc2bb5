"""The definition of a training run: network, recipe, images and hardware."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hemf_export.checkpoints.reading import Reading
from hemf_export.files import artifacts
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.own import OwnConfig
from hemf_export.train.distillation import Teacher
from hemf_export.train.hardware import Hardware
from hemf_export.train.initial_weights import InitialWeights
from hemf_export.train.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """Everything that defines a training run.

    Args:
        config: the network's configuration, with the number of classes of the data.
        recipe: hyperparameters.
        preprocess: how images become input tensors.
        train: training images.
        validation: images that select the best epoch.
        hardware: device and precision.
        workers: loader processes per process of the run.
        teacher: a trained network to distil from; None for none.
        initial: weights to start from; None for the network's initialization.
    """

    config: NetworkConfig
    recipe: Recipe
    preprocess: Preprocess
    train: LabelledImages
    validation: LabelledImages
    hardware: Hardware = field(default_factory=Hardware)
    workers: int = 0
    teacher: Teacher | None = None
    initial: InitialWeights | None = None

    @property
    def reading(self) -> Reading:
        """Reading of the run's own checkpoints."""
        return Reading(factory=self.config.factory if isinstance(self.config, OwnConfig) else None)

    def class_counts(self) -> list[int]:
        """Number of training images of each class."""
        assert self.train.labels is not None
        return [self.train.labels.count(label) for label in range(len(self.train.classes))]

    def description(self, processes: int = 1) -> dict[str, Any]:
        """Describe what must stay the same for a run to be resumed.

        Hardware and workers may change. The number of processes may not: each has BatchNorm statistics of its own part
        of a batch.
        """
        taught = {} if self.teacher is None else {"teacher": self.teacher.sha256}
        return {
            **{f"model.{name}": value for name, value in self.config.to_dict().items()},
            **self.recipe.to_dict(),
            **{f"preprocess.{name}": value for name, value in self.preprocess.to_dict().items()},
            "classes": list(self.train.classes),
            "training images": len(self.train),
            "validation images": len(self.validation),
            "processes": processes,
            **taught,
            **({} if self.initial is None else {"init": self.initial.sha256}),
        }

    def provenance(self) -> dict[str, Any]:
        """Recipe, images, teacher and versions, as recorded in the run's checkpoints."""
        images = {"train": self.train.to_dict(), "val": self.validation.to_dict()}
        record: dict[str, Any] = {"recipe": self.recipe.to_dict(), "images": images}
        if self.teacher is not None:
            record["teacher"] = {"model": self.teacher.name, "checkpoint_sha256": self.teacher.sha256}
        if self.initial is not None:
            record["init"] = self.initial.to_dict()
        return {**record, "versions": artifacts.versions()}
