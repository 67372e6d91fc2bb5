"""The result of a verification: the reference, the candidates, what each missed; plain types of it for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.image_set import ImageSet
from hemf import artifacts
from hemf.folders import LabelledImages
from hemf_export.predictor import Predictor
from hemf_export.verify.bounds import Limits, Missed
from hemf_export.verify.comparison import Paired

FORMAT = 1  # of the JSON


@dataclass(frozen=True)
class Subject:
    """A model and what it made of the images.

    Args:
        path: of its file.
        sha256: of the file.
        model: that was run.
        logits: scores (n, classes) of the images, in their order.
        metrics: see `train.metrics.summarize`; None without labels, or where a logit is not finite.
    """

    path: Path
    sha256: str
    model: Predictor
    logits: NDArray[np.float32]
    metrics: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "file": self.path.name,
            "path": str(self.path),
            "sha256": self.sha256,
            **self.model.to_dict(),
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Verified:
    """A candidate, its comparison with the reference and the verdict.

    Args:
        subject: the candidate.
        paired: beside the reference.
        limits: its bounds.
        missed: those that don't hold; empty where it passed.
        recall_drops: by class, in points; None without labels.
    """

    subject: Subject
    paired: Paired
    limits: Limits
    missed: tuple[Missed, ...]
    recall_drops: dict[str, float] | None

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return not self.missed


@dataclass(frozen=True)
class Verification:
    """Everything that was found.

    Args:
        reference: what the candidates are compared with.
        candidates: in the order in which they were named.
        images: that all were run on.
        seed: of the bootstrap.
        extra: parts that were added afterwards, by candidate and name: where a file leaves the float32 one.
        doubts: of the reference itself; see `hemf_export.plausibility`.
        notes: of what is odd about the images.
    """

    reference: Subject
    candidates: tuple[Verified, ...]
    images: LabelledImages
    seed: int
    extra: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return all(candidate.passed for candidate in self.candidates)

    def name_of(self, index: int) -> str:
        """An image as a report names it: below the folder."""
        return self.images.paths[index].relative_to(self.images.root).as_posix()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without NaN: the report, from which every other form is made."""
        images = ImageSet(self.images, self.reference.model.input).to_dict()
        return {
            "verification": FORMAT,
            "passed": self.passed,
            "classes": list(self.reference.model.classes),
            "images": {**images, "path": str(self.images.root), "labelled": self.images.labels is not None},
            "checkpoint_sha256": self.reference.model.checkpoint_sha256,
            "seed": self.seed,
            "reference": self.reference.to_dict(),
            "doubts": list(self.doubts),
            "candidates": [self._candidate(candidate) for candidate in self.candidates],
            "versions": artifacts.versions(),
        }

    def _candidate(self, candidate: Verified) -> dict[str, Any]:
        return {
            **candidate.subject.to_dict(),
            "passed": candidate.passed,
            "missed": [dict(vars(missed)) for missed in candidate.missed],
            "bounds": candidate.limits.to_dict(),
            "against_reference": {**candidate.paired.to_dict(), "recall_drops_points": candidate.recall_drops},
            "not_finite_images": [self.name_of(index) for index in candidate.paired.not_finite],
            "changed_images": [self._changed(candidate, index) for index in candidate.paired.changed],
            **self.extra.get(str(candidate.subject.path), {}),
        }

    def _changed(self, candidate: Verified, index: int) -> dict[str, Any]:
        labels, classes = self.images.labels, self.reference.model.classes
        return {
            "image": self.name_of(index),
            "label": None if labels is None else classes[labels[index]],
            "reference": _of_image(self.reference, index),
            "candidate": _of_image(candidate.subject, index),
        }


def _of_image(subject: Subject, index: int) -> dict[str, Any]:
    """Class and probabilities of one image; None for those of logits that are not finite."""
    classes, logits = subject.model.classes, subject.logits[index]
    known = bool(np.isfinite(logits).all())
    probabilities = subject.model.output.probabilities(logits[None])[0].tolist() if known else [None] * len(classes)
    return {
        "class": classes[int(logits.argmax())] if known else None,
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }
