"""The proof of a file: how it compares with what it was made from.

It stands under "proof" in the manifest of every graph and engine; an engine carries that of its graph. Manifests of
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
_NOISE = "seeded noise"  # how earlier manifests begin the source of images that are none


@dataclass(frozen=True)
class ImageRecord:
    """Which images were used, without their paths.

    Args:
        folder: its name, or where noise is from.
        images: how many.
        classes: images of each class; empty without labels.
        names_sha256: hash of the files' names; None for noise, and where an earlier version didn't note it.
        noise: whether they are seeded noise.
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
    """A comparison as a manifest tells it: see `metrics.comparison.Comparison`, whose names these are.

    What isn't known is None: without labels there is no accuracy, and earlier versions noted less.

    Args:
        values: under today's names.
    """

    values: Mapping[str, Any]

    @property
    def finite(self) -> bool:
        """Whether every score on both sides is."""
        return bool(self.values.get("finite", True))

    @property
    def agreement(self) -> float:
        """Share of the images that keep their class."""
        return float(self.values["agreement"])

    @property
    def max_logit_difference(self) -> float | None:
        """The largest absolute difference of a score; None where one isn't finite."""
        return _number(self.values["logit_difference"].get("max"))

    @property
    def accuracy(self) -> float | None:
        """The file's."""
        return _number(self.values.get("accuracy"))

    @property
    def reference_accuracy(self) -> float | None:
        """The reference's."""
        return _number(self.values.get("reference_accuracy"))

    @property
    def balanced_accuracy(self) -> float | None:
        """The file's mean recall of the classes."""
        return _number(self.values.get("balanced_accuracy"))

    @property
    def reference_balanced_accuracy(self) -> float | None:
        """The reference's."""
        return _number(self.values.get("reference_balanced_accuracy"))

    @property
    def accuracy_drop_points(self) -> float | None:
        """Drop in accuracy, in percentage points: positive is worse."""
        return _number(self.values.get("accuracy_drop_points"))

    @property
    def accuracy_drop_interval_points(self) -> tuple[float, float] | None:
        """Its 95 % bootstrap interval."""
        interval = self.values.get("accuracy_drop_interval_points")
        return None if interval is None else (float(interval[0]), float(interval[1]))

    @property
    def expected(self) -> ExpectedChanges | None:
        """Changes of class to be expected on other images like these."""
        shares = [_number(self.values.get(f"expected_{name}")) for name in ("changes", "losses", "gains")]
        known = [share for share in shares if share is not None]
        return ExpectedChanges(*known) if len(known) == len(shares) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return dict(self.values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figures:
        """Read what a comparison gives, of an earlier version too."""
        figures = cls(comparison.read(values))
        for name, member in vars(cls).items():
            if isinstance(member, property):
                getattr(figures, name)  # raises where it can't be read
        return figures


@dataclass(frozen=True)
class Proof:
    """What shows that a file computes what it was made from, within which bounds.

    Args:
        images: that both were run on; none that ranges were measured on.
        figures: how they compare.
        float16_emulated: whether every float16 result was rounded as a GPU does.
        calibration_images: that ranges were measured on; None where nothing was measured.
        bound: the largest difference of a score that was allowed; None for no bound.
        budget: the loss that was allowed; None for no budget.
        file_as_written: what the file itself computes, see `export.written`; None for what is run as it is.
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
    """The proof in the manifest of a graph or an engine, of this version or an earlier one; None where there is none.

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
    """A proof as it was written before there was one schema: by quantization, by exports, and in engines."""
    own: Mapping[str, Any] = manifest.get("proof_of_the_graph") or manifest
    figures = own.get("figures")
    parity = own.get("parity") or own.get("parity_of_the_graph")
    told = figures if figures is not None else parity
    if told is None:
        return None
    known = {name: value for name, value in told.items() if name not in ("float16_emulated", "source", "batches")}
    emulated, written = bool(told.get("float16_emulated", False)), own.get("file_as_written")
    if figures is None:
        source = str(told["source"])
        images = ImageRecord(source, int(told["images"]), noise=source.startswith(_NOISE))
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
