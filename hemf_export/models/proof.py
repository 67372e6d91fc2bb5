"""Proof of a file: its comparison with the file that it was made from.

It is stored under "proof" in the manifest of every graph and engine; an engine has that of its graph. Manifests of
earlier versions, which had three schemas, are read as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hemf_export.calibration.budget import Budget
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.metrics import comparison
from hemf_export.metrics.expected_changes import ExpectedChanges

KEY = "proof"
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, UsageError)
_NOISE = "seeded noise"  # start of the image source in earlier manifests, for noise


@dataclass(frozen=True)
class ImageRecord:
    """Record of the images that were used, without their paths.

    Args:
        folder: name of the folder, or description of the noise.
        images: number of images.
        classes: number of images by class; empty without labels.
        names_sha256: hash of the file names; None for noise, and in manifests of earlier versions.
        noise: whether the images are seeded noise.
    """

    folder: str
    images: int
    classes: Mapping[str, int] = field(default_factory=dict)
    names_sha256: str | None = None
    noise: bool = False

    def __str__(self) -> str:
        return f"{self.images} images of {self.folder}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest; `noise` only where it is noise."""
        values = {**vars(self), "classes": dict(self.classes)}
        return values if self.noise else {name: value for name, value in values.items() if name != "noise"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageRecord:
        """Read what `to_dict` gave."""
        classes = {str(name): int(count) for name, count in (values.get("classes") or {}).items()}
        digest = values.get("names_sha256")
        return cls(
            str(values["folder"]),
            int(values["images"]),
            classes,
            None if digest is None else str(digest),
            bool(values.get("noise", False)),
        )


@dataclass(frozen=True)
class Figures:
    """Results of a comparison, read from a manifest, under the names of `metrics.comparison.Comparison`.

    Unknown values are None: without labels there is no accuracy, and earlier versions recorded less.

    Args:
        values: results by their present names.
    """

    values: Mapping[str, Any]

    @property
    def finite(self) -> bool:
        """Whether all scores of both models are finite."""
        return bool(self.values.get("finite", True))

    @property
    def agreement(self) -> float:
        """Share of the images that keep their class."""
        return float(self.values["agreement"])

    @property
    def max_logit_difference(self) -> float | None:
        """Largest absolute difference of a score; None where one isn't finite."""
        return _number(self.values["logit_difference"].get("max"))

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the file."""
        return _number(self.values.get("accuracy"))

    @property
    def reference_accuracy(self) -> float | None:
        """Accuracy of the reference."""
        return _number(self.values.get("reference_accuracy"))

    @property
    def balanced_accuracy(self) -> float | None:
        """Balanced accuracy of the file."""
        return _number(self.values.get("balanced_accuracy"))

    @property
    def reference_balanced_accuracy(self) -> float | None:
        """Balanced accuracy of the reference."""
        return _number(self.values.get("reference_balanced_accuracy"))

    @property
    def accuracy_drop_points(self) -> float | None:
        """Drop in accuracy, in percentage points: positive is worse."""
        return _number(self.values.get("accuracy_drop_points"))

    @property
    def accuracy_drop_interval_points(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of the drop in accuracy."""
        interval = self.values.get("accuracy_drop_interval_points")
        return None if interval is None else (float(interval[0]), float(interval[1]))

    @property
    def expected(self) -> ExpectedChanges | None:
        """Changes of class to expect on other images like these."""
        shares = [_number(self.values.get(f"expected_{name}")) for name in ("changes", "losses", "gains")]
        known = [share for share in shares if share is not None]
        return ExpectedChanges(*known) if len(known) == len(shares) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return dict(self.values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figures:
        """Read the results of a comparison, of earlier versions too."""
        figures = cls(comparison.read(values))
        for name, member in vars(cls).items():
            if isinstance(member, property):
                getattr(figures, name)  # raises where it can't be read
        return figures


@dataclass(frozen=True)
class Proof:
    """Evidence that a file computes the same as the file that it was made from, within stated bounds.

    Args:
        images: held-out images that both were run on.
        figures: results of the comparison.
        float16_emulated: whether every float16 result was rounded as on a GPU.
        calibration_images: images that ranges were measured on; None where none were.
        bound: largest difference of a score that was allowed; None for no bound.
        budget: loss that was allowed; None for no budget.
        file_as_written: check of the file itself, see `export.graph_writing`; None where the proof ran the file itself.
    """

    images: ImageRecord
    figures: Figures
    float16_emulated: bool = False
    calibration_images: ImageRecord | None = None
    bound: float | None = None
    budget: Budget | None = None
    file_as_written: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        calibrated = self.calibration_images
        return {
            "images": self.images.to_dict(),
            "figures": self.figures.to_dict(),
            "float16_emulated": self.float16_emulated,
            "calibration_images": None if calibrated is None else calibrated.to_dict(),
            "bound": self.bound,
            "budget": None if self.budget is None else self.budget.to_dict(),
            "file_as_written": None if self.file_as_written is None else dict(self.file_as_written),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Proof:
        """Read what `to_dict` gave.

        Raises:
            BadInputError: it is something else.
        """
        try:
            written = values.get("file_as_written")
            return cls(
                ImageRecord.from_dict(values["images"]),
                Figures.from_dict(values["figures"]),
                bool(values.get("float16_emulated", False)),
                _record(values.get("calibration_images")),
                _number(values.get("bound")),
                _budget(values.get("budget")),
                None if written is None else dict(written),
            )
        except _MALFORMED as error:
            raise _unreadable(error) from error


def of_manifest(manifest: Mapping[str, Any] | None) -> Proof | None:
    """Read the proof in the manifest of a graph or an engine, of earlier versions too; None where there is none.

    Raises:
        BadInputError: it can't be read.
    """
    if manifest is None:
        return None
    if manifest.get(KEY) is not None:
        return Proof.from_dict(manifest[KEY])
    try:
        return _earlier(manifest)
    except _MALFORMED as error:
        raise _unreadable(error) from error


def _earlier(manifest: Mapping[str, Any]) -> Proof | None:
    """Read a proof in one of the earlier schemas: of quantization, of exports, and in engines."""
    own: Mapping[str, Any] = manifest.get("proof_of_the_graph") or manifest
    figures = own.get("figures")
    parity = own.get("parity") or own.get("parity_of_the_graph")
    entry = figures if figures is not None else parity
    if entry is None:
        return None
    known = {name: value for name, value in entry.items() if name not in ("float16_emulated", "source", "batches")}
    emulated, written = bool(entry.get("float16_emulated", False)), own.get("file_as_written")
    if figures is None:
        source = str(entry["source"])
        images = ImageRecord(source, int(entry["images"]), noise=source.startswith(_NOISE))
        return Proof(images, Figures.from_dict(known), emulated, file_as_written=written)
    images = ImageRecord.from_dict(own["held_out_images"])
    calibrated, budget = _record(own.get("calibration_images")), _budget(own.get("budget"))
    return Proof(images, Figures.from_dict(known), emulated, calibrated, budget=budget, file_as_written=written)


def _record(values: Mapping[str, Any] | None) -> ImageRecord | None:
    return None if values is None else ImageRecord.from_dict(values)


def _budget(values: Mapping[str, Any] | None) -> Budget | None:
    if values is None:
        return None
    return Budget(_number(values["max_drop"]), _number(values["min_agreement"]), values.get("metric", "accuracy"))


def _number(value: Any) -> float | None:
    """A finite number, or None for None and what isn't finite."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value) if math.isfinite(value) else None


def _unreadable(error: Exception) -> BadInputError:
    return BadInputError(f"A manifest's proof can't be read: {error!r}.", "Make the file again.")
