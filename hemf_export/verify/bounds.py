"""What a file may differ by from its reference, by precision, and what a verification found beyond it.

The defaults are meant to catch a damaged file and to let a sound one pass:

- *Logits.* Float32 differs by the order of its sums: the bound of the export's proof, or 1e-5 of the largest logit. An
  FP16 file has the bound that it was kept by (`hemf_export.fp16`). No bound holds for every network in INT8; but what
  `calibrate` made tells in its manifest the largest difference on the images that it was proven on, and three times as
  much on as many others (four times on ten times as many: there are larger ones among them) means another file. Sound
  files of three trained networks went up to 2.3 times. What hides below shows in what a file stores. It is never
  less than 0.2 % of the largest logit, four times what float16 rounds off it. An INT8 file whose manifest tells nothing
  may differ by a quarter of the largest logit.
- *Probabilities*, where a file gives those and no logits: the same, of probabilities, with the bound of FP16 for them.
- *Accuracy, agreement, recall.* The budget that an INT8 file was made for, else half a point, and so on (`_DEFAULTS`).
  One image may always change: of 50 images it is two points, and two classes that tie are nobody's fault. What was
  asked for is taken literally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hemf.errors import UsageError
from hemf_export import fp16, onnx_export
from hemf_export.description import Precision
from hemf_export.verify.comparison import Paired

SHARE_OF_LOGITS_FP32 = 1e-5
SHARE_OF_LOGITS_INT8 = 0.25
LEAST_SHARE_OF_LOGITS = 0.002
TIMES_PROOF = 3.0


@dataclass(frozen=True)
class Bounds:
    """What a user allows; None for the default of the file's precision.

    Args:
        max_drop: of accuracy, in points.
        min_agreement: share of the images that keep their class.
        max_recall_drop: of any class, in points.
        max_logit_difference: absolute; of a probability, for files that give those.

    Raises:
        UsageError: a value out of range.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    max_recall_drop: float | None = None
    max_logit_difference: float | None = None

    def __post_init__(self) -> None:
        for option, points in (("--max-drop", self.max_drop), ("--max-recall-drop", self.max_recall_drop)):
            if points is not None and not 0 <= points <= 100:
                raise UsageError(f"{option} is in points, 0 to 100, not {points}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"--min-agreement is a share, 0 to 1, not {self.min_agreement}.")
        if self.max_logit_difference is not None and not 0 <= self.max_logit_difference < math.inf:
            raise UsageError(f"--max-logit-diff must be 0 or more, not {self.max_logit_difference}.")


@dataclass(frozen=True)
class Limits:
    """The bounds of one file, resolved.

    Args:
        max_drop: of accuracy, in points.
        min_agreement: share of the images.
        max_recall_drop: in points, by class.
        max_logit_difference: absolute.
        origin: of each, where it comes from, in words.
    """

    max_drop: float
    min_agreement: float
    max_recall_drop: dict[str, float]
    max_logit_difference: float
    origin: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return dict(vars(self))


@dataclass(frozen=True)
class Missed:
    """A bound that was missed.

    Args:
        bound: its name, or "finite" or "preprocessing", which nobody can allow.
        figure: what was found; None where that is no number.
        limit: what is allowed.
        text: the same in words.
    """

    bound: str
    figure: float | None
    limit: float | None
    text: str


@dataclass(frozen=True)
class Proof:
    """What a file's manifest says of its own proof on real images.

    Args:
        max_difference: the largest of a logit; None where it was proven on noise or nothing is known.
        images: how many.
        max_drop: of accuracy, that it was made for, in points; None for no such budget.
        min_agreement: that it was made for.
    """

    max_difference: float | None = None
    images: float | None = None
    max_drop: float | None = None
    min_agreement: float | None = None


_DEFAULTS: dict[Precision, tuple[float, float, float]] = {  # points, share, points
    "fp32": (0.1, 0.999, 0.5),
    "fp16": (0.5, fp16.MIN_AGREEMENT, 1.0),
    "int8": (0.5, 0.98, 2.0),
    "int8-cpu": (0.5, 0.98, 2.0),
}


def proof_of(manifest: Mapping[str, Any] | None) -> Proof:
    """The proof of an ONNX file or of the graph that an engine was built from; nothing where the manifest is silent."""
    if manifest is None:
        return Proof()
    inner = manifest.get("proof_of_the_graph")
    told = inner if isinstance(inner, Mapping) else manifest
    figures, budget = told.get("figures"), told.get("budget")
    figures = figures if isinstance(figures, Mapping) else {}
    budget = budget if isinstance(budget, Mapping) else {}
    of_accuracy = budget.get("metric", "accuracy") == "accuracy"  # points of another metric are no points of it
    return Proof(
        _number(figures.get("max_difference")),
        _number(figures.get("images")),
        _number(budget.get("max_drop")) if of_accuracy else None,
        _number(budget.get("min_agreement")),
    )


def limits(bounds: Bounds, precision: Precision, proof: Proof, paired: Paired, per_class: Mapping[str, int]) -> Limits:
    """What `bounds` mean for a file.

    Args:
        bounds: as asked for.
        precision: of the file.
        proof: its own.
        paired: its comparison; tells the number of images and the size of the logits.
        per_class: labelled images of each class; empty without labels.
    """
    drop, agreement, recall = _DEFAULTS[precision]
    origin = dict.fromkeys(("max_drop", "min_agreement", "max_recall_drop"), f"default of {precision}")
    if proof.max_drop is not None:
        drop, origin["max_drop"] = proof.max_drop, "the budget it was made for"
    if proof.min_agreement is not None:
        agreement, origin["min_agreement"] = proof.min_agreement, "the budget it was made for"
    images = paired.overall.images
    drop, agreement = max(drop, 100 / images), min(agreement, 1 - 1 / images)
    recalls = {name: max(recall, 100 / count) for name, count in per_class.items() if count}
    difference, origin["max_logit_difference"] = _logits(precision, proof, paired)
    if bounds.max_drop is not None:
        drop, origin["max_drop"] = bounds.max_drop, "--max-drop"
    if bounds.min_agreement is not None:
        agreement, origin["min_agreement"] = bounds.min_agreement, "--min-agreement"
    if bounds.max_recall_drop is not None:
        recalls, origin["max_recall_drop"] = dict.fromkeys(recalls, bounds.max_recall_drop), "--max-recall-drop"
    if bounds.max_logit_difference is not None:
        difference, origin["max_logit_difference"] = bounds.max_logit_difference, "--max-logit-diff"
    return Limits(drop, agreement, recalls, difference, origin)


def missed(allowed: Limits, paired: Paired, recall_drops: Mapping[str, float]) -> list[Missed]:
    """Bounds that finite logits miss.

    Args:
        allowed: the file's limits.
        paired: its comparison.
        recall_drops: of each class, in points; empty without labels.
    """
    found: list[Missed] = []
    overall = paired.overall
    if not overall.max_difference <= allowed.max_logit_difference:
        text = (
            f"a {paired.output.noun} differs by {overall.max_difference:.3g}, bound {allowed.max_logit_difference:.3g}"
        )
        limit = allowed.max_logit_difference
        found.append(Missed("max_logit_difference", overall.max_difference, limit, f"{text} (--max-logit-diff)"))
    if overall.agreement < allowed.min_agreement:
        text = f"{overall.agreement:.2%} of {overall.images} images keep their class, bound {allowed.min_agreement:.2%}"
        found.append(Missed("min_agreement", overall.agreement, allowed.min_agreement, f"{text} (--min-agreement)"))
    if overall.drop is not None and _beyond(overall.drop, allowed.max_drop):
        text = f"accuracy drops by {overall.drop:.2f} points, bound {allowed.max_drop:.2f} (--max-drop)"
        found.append(Missed("max_drop", overall.drop, allowed.max_drop, text))
    for name, drop in recall_drops.items():
        limit = allowed.max_recall_drop.get(name, math.inf)
        if _beyond(drop, limit):
            text = f"recall of {name} drops by {drop:.2f} points, bound {limit:.2f} (--max-recall-drop)"
            found.append(Missed("max_recall_drop", drop, limit, text))
    return found


def _logits(precision: Precision, proof: Proof, paired: Paired) -> tuple[float, str]:
    """The default bound of a logit's difference, and its origin."""
    largest = paired.largest_logit if math.isfinite(paired.largest_logit) else 0.0
    if precision == "fp32":
        return max(onnx_export.TOLERANCE, SHARE_OF_LOGITS_FP32 * largest), "default of fp32"
    half = fp16.Bounds().score_bound(paired.output, largest)
    if proof.max_difference is None or not proof.images:
        if precision == "fp16":
            return half, "default of fp16"
        return max(half, SHARE_OF_LOGITS_INT8 * largest), f"default of {precision}, as its manifest tells no figures"
    times = TIMES_PROOF + math.log10(max(1.0, paired.overall.images / proof.images))
    bound = max(LEAST_SHARE_OF_LOGITS * max(1.0, largest), times * proof.max_difference)
    if precision == "fp16" and bound > half:
        return half, "default of fp16"
    return bound, f"{times:.2g} times the {proof.max_difference:.2g} of its own proof"


def _beyond(points: float, limit: float) -> bool:
    """Shares of whole images in points: rounding must not make one of them more than itself."""
    return points > limit + 1e-9


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
