"""Bounds on how far a file may differ from its reference, by precision, and the check against them.

The defaults are meant to catch a damaged file and to let a sound one pass:

- *Logits.* Float32 results differ by the order of summation: their bound is the tolerance of the export, or 1e-5 of the
  largest logit, for an engine on a GPU 1e-4 of it. An FP16 file has the bound that it was made with
  (`precision.bounds`). No bound holds for every network in INT8; but the manifest of a quantized file records the
  largest difference on the images of its proof. Three times as much on as many other images (four times on ten times as
  many, which have larger ones among them) means a different file; sound files of three trained networks reached 2.3
  times. Smaller damage shows in the numbers that a file stores. The bound is never less than 0.2 % of the largest
  logit, four times the rounding error of float16 there. An INT8 file whose manifest has no proof may differ by a
  quarter of the largest logit.
- *Probabilities*, where a file gives those and no logits, have the same rules, with the FP16 bound for probabilities.
- *Accuracy, agreement, recall.* The budget that an INT8 file was made for, else half a point and so on (`_DEFAULTS`).
  One image may always change: among 50 images it is two points, and a tie of two classes is no fault. Bounds that a
  user sets are applied literally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.metrics.comparison import Comparison
from hemf_export.metrics.percentage import percentage
from hemf_export.models import proof as proofs
from hemf_export.models.description import Precision
from hemf_export.precision import bounds as precision_bounds

SHARE_OF_LOGITS_INT8 = 0.25
LEAST_SHARE_OF_LOGITS = 0.002
TIMES_PROOF = 3.0
ASKED_FOR = "asked for"


@dataclass(frozen=True)
class Bounds:
    """Bounds as a user sets them; None for the default of the file's precision.

    Args:
        max_drop: largest drop in accuracy, in points.
        min_agreement: least share of the images that keep their class.
        max_recall_drop: largest drop in the recall of any class, in points.
        max_logit_difference: largest absolute difference of a logit, or of a probability for files that give those.

    Raises:
        UsageError: a value out of range.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    max_recall_drop: float | None = None
    max_logit_difference: float | None = None

    def __post_init__(self) -> None:
        for option, points in (("`max_drop`", self.max_drop), ("`max_recall_drop`", self.max_recall_drop)):
            if points is not None and not 0 <= points <= 100:
                raise UsageError(f"{option} is in points, 0 to 100, not {points}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"`min_agreement` is a share, 0 to 1, not {self.min_agreement}.")
        if self.max_logit_difference is not None and not 0 <= self.max_logit_difference < math.inf:
            raise UsageError(f"`max_logit_difference` must be 0 or more, not {self.max_logit_difference}.")


@dataclass(frozen=True)
class Limits:
    """Resolved bounds of one file.

    Args:
        max_drop: largest drop in accuracy, in points.
        min_agreement: least share of the images that keep their class.
        max_recall_drop: largest drop in recall, in points, by class.
        max_logit_difference: largest absolute difference.
        origin: where each bound comes from, in words, by its name.
    """

    max_drop: float
    min_agreement: float
    max_recall_drop: dict[str, float]
    max_logit_difference: float
    origin: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Missed:
    """A bound that was missed.

    Args:
        bound: its name, or "finite" or "preprocessing", which nobody can allow.
        figure: the measured value; None where that is no number.
        limit: the allowed value.
        text: what was missed, in words.
    """

    bound: str
    figure: float | None
    limit: float | None
    text: str


@dataclass(frozen=True)
class Proof:
    """Proof on real images, as a file's manifest records it.

    Args:
        max_difference: largest difference of a logit; None where the proof used noise or there is none.
        images: their number.
        max_drop: the drop in accuracy that the file was made for, in points; None for no such budget.
        min_agreement: the agreement that the file was made for.
    """

    max_difference: float | None = None
    images: float | None = None
    max_drop: float | None = None
    min_agreement: float | None = None


_DEFAULTS: dict[Precision, tuple[float, float, float]] = {  # points, share, points
    "fp32": (0.1, 0.999, 0.5),
    "fp16": (0.5, precision_bounds.MIN_AGREEMENT, 1.0),
    "int8": (0.5, 0.98, 2.0),
    "int8-cpu": (0.5, 0.98, 2.0),
}


def proof_of(manifest: Mapping[str, Any] | None) -> Proof:
    """Read the proof of an ONNX file or of the graph that an engine was built from; empty if the manifest has none."""
    try:
        evidence = proofs.of_manifest(manifest)
    except BadInputError:
        return Proof()
    if evidence is None or evidence.images.noise:
        return Proof()
    budget = evidence.budget
    of_accuracy = budget is not None and budget.metric == "accuracy"  # points of another metric are no points of it
    return Proof(
        evidence.figures.max_logit_difference,
        evidence.images.images,
        budget.max_drop if budget is not None and of_accuracy else None,
        None if budget is None else budget.min_agreement,
    )


def limits(
    bounds: Bounds,
    precision: Precision,
    proof: Proof,
    comparison: Comparison,
    per_class: Mapping[str, int],
    *,
    on_gpu: bool = False,
) -> Limits:
    """Resolve `bounds` for a file.

    Args:
        bounds: as the user set them.
        precision: the file's.
        proof: from the file's manifest.
        comparison: with the reference; gives the number of images and the size of the logits.
        per_class: number of labelled images by class; empty without labels.
        on_gpu: whether the file runs on a GPU, as engines do.
    """
    drop, agreement, recall = _DEFAULTS[precision]
    origin = dict.fromkeys(("max_drop", "min_agreement", "max_recall_drop"), f"default of {precision}")
    if proof.max_drop is not None:
        drop, origin["max_drop"] = proof.max_drop, "the budget it was made for"
    if proof.min_agreement is not None:
        agreement, origin["min_agreement"] = proof.min_agreement, "the budget it was made for"
    images = comparison.images
    drop, agreement = max(drop, 100 / images), min(agreement, 1 - 1 / images)
    recalls = {name: max(recall, 100 / count) for name, count in per_class.items() if count}
    difference, origin["max_logit_difference"] = _logits(precision, proof, comparison, on_gpu=on_gpu)
    if bounds.max_drop is not None:
        drop, origin["max_drop"] = bounds.max_drop, ASKED_FOR
    if bounds.min_agreement is not None:
        agreement, origin["min_agreement"] = bounds.min_agreement, ASKED_FOR
    if bounds.max_recall_drop is not None:
        recalls, origin["max_recall_drop"] = dict.fromkeys(recalls, bounds.max_recall_drop), ASKED_FOR
    if bounds.max_logit_difference is not None:
        difference, origin["max_logit_difference"] = bounds.max_logit_difference, ASKED_FOR
    return Limits(drop, agreement, recalls, difference, origin)


def missed(allowed: Limits, comparison: Comparison, recall_drops: Mapping[str, float]) -> list[Missed]:
    """List the bounds that finite logits miss.

    Args:
        allowed: the file's limits.
        comparison: with the reference.
        recall_drops: drop in recall by class, in points; empty without labels.
    """
    violations: list[Missed] = []
    difference, drop = comparison.logit_difference.max, comparison.accuracy_drop_points
    if not difference <= allowed.max_logit_difference:
        text = f"a {comparison.output.noun} differs by {difference:.3g}, bound {allowed.max_logit_difference:.3g}"
        limit = allowed.max_logit_difference
        violations.append(Missed("max_logit_difference", difference, limit, text))
    if comparison.agreement < allowed.min_agreement:
        images, least = comparison.images, allowed.min_agreement
        kept = images - len(comparison.changed) - len(comparison.not_finite)
        share = percentage(comparison.agreement, images)
        text = f"{kept} of {images} images keep their class ({share}), bound {least:.2%}"
        violations.append(Missed("min_agreement", comparison.agreement, least, text))
    if drop is not None and _beyond(drop, allowed.max_drop):
        text = f"accuracy drops by {drop:.2f} points, bound {allowed.max_drop:.2f}"
        violations.append(Missed("max_drop", drop, allowed.max_drop, text))
    for name, lost in recall_drops.items():
        limit = allowed.max_recall_drop.get(name, math.inf)
        if _beyond(lost, limit):
            text = f"recall of {name} drops by {lost:.2f} points, bound {limit:.2f}"
            violations.append(Missed("max_recall_drop", lost, limit, text))
    return violations


def _logits(precision: Precision, proof: Proof, comparison: Comparison, *, on_gpu: bool) -> tuple[float, str]:
    """Return the default bound on the difference of a logit, and its origin."""
    largest = comparison.largest_logit if math.isfinite(comparison.largest_logit) else 0.0
    if precision == "fp32":
        return precision_bounds.float32_bound(largest, on_gpu=on_gpu), "default of fp32"
    half = precision_bounds.Bounds().score_bound(comparison.output, largest)
    if proof.max_difference is None or not proof.images:
        if precision == "fp16":
            return half, "default of fp16"
        return max(half, SHARE_OF_LOGITS_INT8 * largest), f"default of {precision}, as its manifest tells no figures"
    times = TIMES_PROOF + math.log10(max(1.0, comparison.images / proof.images))
    bound = max(LEAST_SHARE_OF_LOGITS * max(1.0, largest), times * proof.max_difference)
    if precision == "fp16" and bound > half:
        return half, "default of fp16"
    return bound, f"{times:.2g} times the {proof.max_difference:.2g} of its own proof"


def _beyond(points: float, limit: float) -> bool:
    """Compare points that stand for whole images: rounding alone must not push them beyond the limit."""
    return points > limit + 1e-9
