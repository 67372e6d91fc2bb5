"""The result of an evaluation: each model's figures on its images, and their mean; plain types of it for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.image_set import ImageSet
from hemf import artifacts
from hemf.folders import LabelledImages
from hemf_export.predictor import Predictor
from train.class_metrics import RocCurve, roc_curves

FORMAT = 1  # of the JSON
FIGURES = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "mcc", "kappa", "auc", "ece",
    "brier",
)  # fmt: skip
CLASS_FIGURES = ("precision", "recall", "specificity", "f1", "auc")


@dataclass(frozen=True)
class Evaluated:
    """A model, the images and what it made of them.

    Args:
        path: of the file.
        sha256: of it.
        model: that was run.
        images: with labels.
        probabilities: (n, classes), in the images' order.
        metrics: see `train.metrics.summarize`.
        by_class: see `train.class_metrics.by_class`.
        doubts: see `hemf_export.plausibility`.
    """

    path: Path
    sha256: str
    model: Predictor
    images: LabelledImages
    probabilities: NDArray[np.float64]
    metrics: dict[str, Any]
    by_class: dict[str, dict[str, Any]]
    doubts: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """True classes of the images."""
        assert self.images.labels is not None
        return self.images.labels

    @property
    def curves(self) -> tuple[RocCurve, ...]:
        """ROC curves of the classes against the rest."""
        return roc_curves(self.labels, self.probabilities, self.model.classes)

    @property
    def wrong(self) -> tuple[Path, ...]:
        """Images that were given another class than theirs, those with the most confidence first."""
        confidence, predicted = self.probabilities.max(1), self.probabilities.argmax(1)
        indices = np.flatnonzero(predicted != np.asarray(self.labels))
        ranked = sorted(indices.tolist(), key=lambda index: -confidence[index])
        return tuple(self.images.paths[index] for index in ranked)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without NaN."""
        return {
            "file": self.path.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "checkpoint_sha256": self.model.checkpoint_sha256,
            **self.model.to_dict(),
            "images": {**ImageSet(self.images, self.model.input).to_dict(), "path": str(self.images.root)},
            "metrics": self.metrics,
            "by_class": self.by_class,
            "doubts": list(self.doubts),
        }


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found, one entry a file; `notes` of what is odd about the images."""

    models: tuple[Evaluated, ...]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Of all models; in the order of the first one's logits."""
        return self.models[0].model.classes

    @property
    def confusion(self) -> list[list[int]]:
        """By true and predicted class, summed over the models."""
        total = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for one in self.models:
            order = [one.model.classes.index(name) for name in self.classes]
            total += np.asarray(one.metrics["confusion"])[np.ix_(order, order)]
        found: list[list[int]] = total.tolist()
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without NaN: `models`, and over several `mean` and `standard_deviation` (n - 1) of each figure;
        None where it is undefined for one of them."""
        found: dict[str, Any] = {
            "evaluation": FORMAT,
            "classes": list(self.classes),
            "models": [one.to_dict() for one in self.models],
        }
        if len(self.models) > 1:
            found |= {
                "confusion": self.confusion,
                "mean": self._over_models(statistics.fmean),
                "standard_deviation": self._over_models(statistics.stdev),
            }
        return {**found, "versions": artifacts.versions()}

    def _over_models(self, average: Callable[[list[float]], float]) -> dict[str, Any]:
        def over(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return average(known) if len(known) == len(values) else None

        models = self.models
        by_class = {
            kind: {name: over([one.by_class[kind][name] for one in models]) for name in CLASS_FIGURES}
            for kind in self.classes
        }
        return {**{name: over([one.metrics[name] for one in models]) for name in FIGURES}, "by_class": by_class}
