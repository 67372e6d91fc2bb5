"""Search for the int8 graph that gains most within a budget of accuracy.

Blocks are ordered by their damage relative to their gain; bisection finds the longest prefix of that order that keeps
to the budget. Each step is measured on held-out images, on a few of them where these are conclusive: the graph that is
chosen is proven on all. Then blocks that the bisection skipped are tried, and blocks with next to no gain return to
float16: the latency wouldn't show them, the logits would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hemf_export.calibration.products import Product
from hemf_export.calibration.ranges import Method
from hemf_export.calibration.trials import BlockSensitivity, Trials
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.metrics.comparison import Comparison

Metric = Literal["accuracy", "balanced-accuracy"]
MIN_WORTH = 0.1  # share of the work: an int8 graph with less is not worth its quantization
SAME_WORTH = 0.02  # of the largest gain: graphs that are closer than that count as equally fast
_LARGEST_SET = 100_000  # upper limit of the size of another set where a budget is tiny
_FILL_SHARE = 0.01  # of the whole gain: a block with less is not tried again
_FILL_TRIES = 4
_UNSURE = 2.0  # factor by which the expected changes, estimated on a few images, may be off


@dataclass(frozen=True)
class Budget:
    """The loss that is allowed.

    Args:
        max_drop: largest drop of the metric, in percentage points; None for no bound.
        min_agreement: smallest share of the images that keep their class, 0 to 1; None for no bound.
        metric: accuracy, or balanced accuracy, the mean over the classes.

    Raises:
        UsageError: a value out of range.
    """

    max_drop: float | None = 0.5
    min_agreement: float | None = None
    metric: Metric = "accuracy"

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(f"`max_drop` is in points, 0 to 100, not {self.max_drop}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"`min_agreement` is a share, 0 to 1, not {self.min_agreement}.")

    def kept(self, comparison: Comparison) -> bool:
        """Return whether the figures hold on the images, and are likely to hold on others."""
        return not self.missed(comparison)

    def missed(self, comparison: Comparison) -> list[str]:
        """List what doesn't hold, in words."""
        if not comparison.finite:
            return ["logits that are not finite"]
        return [*self._seen(comparison), *self._expected(comparison, comparison.images)]

    def conclusive(self, comparison: Comparison, images: int) -> bool:
        """Return whether a part of `images` is enough: with half or twice the changes the verdict would be the same."""
        if not comparison.finite:
            return True
        many, few = (
            self._expected(dataclasses.replace(comparison, expected=comparison.expected.times(factor)), images)
            for factor in (_UNSURE, 1 / _UNSURE)
        )
        return bool(few) or not (many or self._seen(comparison))

    def _seen(self, comparison: Comparison) -> list[str]:
        """List the limits that the images themselves miss."""
        problems = []
        drop = (
            comparison.accuracy_drop_points if self.metric == "accuracy" else comparison.balanced_accuracy_drop_points
        )
        if self.max_drop is not None and drop is not None and drop > self.max_drop:
            problems.append(f"{self.metric} drops by {drop:.2f} points, at most {self.max_drop:g}")
        if self.min_agreement is not None and comparison.agreement < self.min_agreement:
            problems.append(f"{comparison.agreement:.2%} keep their class, at least {self.min_agreement:.2%}")
        return problems

    def _expected(self, comparison: Comparison, images: int) -> list[str]:
        """List the limits that so many other images are likely to miss."""
        problems = []
        if self.max_drop is not None:
            size = self._set_of(images, self.max_drop / 100)
            if (likely := comparison.expected.likely_drop(size)) > self.max_drop:
                problems.append(
                    f"{likely:.2f} points may be lost on {size} other images, at most {self.max_drop:g} "
                    f"({comparison.expected.changes:.2%} are expected to change class)"
                )
        if self.min_agreement is not None:
            size = self._set_of(images, 1 - self.min_agreement)
            if (likely := 1 - comparison.expected.likely_changes(size)) < self.min_agreement:
                problems.append(
                    f"{likely:.2%} of {size} other images may keep their class, at least {self.min_agreement:.2%}"
                )
        return problems

    def likely_drop(self, comparison: Comparison) -> float:
        """Return the drop in accuracy, in percentage points, that at most one in 20 other sets of images exceeds."""
        return comparison.expected.likely_drop(self.likely_set(comparison.images))

    def likely_set(self, images: int) -> int:
        """Return the size of the other set that a likely drop refers to, given the number of images measured."""
        return self._set_of(images, (self.max_drop or 0) / 100)

    @staticmethod
    def _set_of(images: int, share: float) -> int:
        """Return the size of another set: `images`, or more where one image would be over `share` of them."""
        return max(images, math.ceil(min(_LARGEST_SET, 1 / share)) if share > 0 else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"max_drop": self.max_drop, "min_agreement": self.min_agreement, "metric": self.metric}


@dataclass(frozen=True)
class Worth:
    """The gain from int8 by block: its share of the multiply-adds, or of the time that a compiled engine saves.

    Args:
        by_block: each block's gain, as a share.
        nodes: names of the products that gain; others stay out of int8.
        least: smallest total gain of an int8 graph that is worth it.
    """

    by_block: Mapping[str, float]
    nodes: frozenset[str]
    least: float


def by_work(products: Sequence[Product]) -> Worth:
    """Return the worth of blocks by their share of the multiply-adds, where no engine was compiled."""
    work = sum(product.multiply_adds for product in products) or 1
    able = [product for product in products if product.refusal is None]
    shares: dict[str, float] = {}
    for product in able:
        shares[product.block] = shares.get(product.block, 0.0) + product.multiply_adds / work
    return Worth(shares, frozenset(product.node for product in able), MIN_WORTH)


@dataclass(frozen=True)
class Step:
    """One graph that the search tried.

    Args:
        blocks: names of the blocks in int8.
        share: share of the multiply-adds in int8.
        worth: its gain; see `Worth`.
        comparison: with the reference on the held-out images, or on as many as were enough for a verdict.
        likely_drop: on other images, in percentage points; see `Budget.likely_drop`.
        kept: whether the budget holds.
    """

    blocks: tuple[str, ...]
    share: float
    worth: float
    comparison: Comparison
    likely_drop: float
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "int8": list(self.blocks),
            "share": self.share,
            "worth": self.worth,
            "kept": self.kept,
            "likely_drop": self.likely_drop,
            **self.comparison.to_dict(),
        }


def search(
    trials: Trials,
    sensitivities: Sequence[BlockSensitivity],
    budget: Budget,
    method: Method,
    worth: Worth,
    progress: Progress = SILENT,
) -> list[Step]:
    """Find the blocks to put into int8.

    Args:
        trials: runs variants on the held-out images.
        sensitivities: sensitivity of every block, measured on calibration images.
        budget: allowed loss.
        method: calibration method of the ranges.
        worth: gain of each block.
        progress: receives each `Step` as an event.

    Returns:
        All steps in order; `best` picks one.
    """
    gives = worth.by_block
    order = sorted(sensitivities, key=lambda block: _damage(block, gives))
    steps: list[Step] = []

    def attempt(chosen: Sequence[BlockSensitivity]) -> bool:
        products: list[Product] = [product for block in chosen for product in block.products]
        comparison = trials.compare(products, method, budget.conclusive)
        share = sum(block.share for block in chosen)
        names = tuple(block.block for block in chosen)
        given = sum(gives[name] for name in names)
        steps.append(Step(names, share, given, comparison, budget.likely_drop(comparison), budget.kept(comparison)))
        progress.event(steps[-1])
        return steps[-1].kept

    kept, missed = 0, len(order) + 1  # prefixes of this many blocks: the longest that holds, the shortest that doesn't
    probe = len(order)
    while probe > kept:
        if attempt(order[:probe]):
            kept = probe
        else:
            missed = probe
        probe = (kept + missed) // 2
    chosen = list(order[:kept])
    least = _FILL_SHARE * sum(gives.values())
    left = [block for block in order[missed:] if gives[block.block] >= least and block.alone.finite]
    for block in sorted(left, key=lambda block: block.alone.kl_divergence)[:_FILL_TRIES]:
        if attempt([*chosen, block]):
            chosen.append(block)
    spared = _spared(chosen, gives)
    if len(spared) < len(chosen) and tuple(block.block for block in spared) not in [step.blocks for step in steps]:
        attempt(spared)
    return steps


def _damage(block: BlockSensitivity, gives: Mapping[str, float]) -> float:
    """Return a block's KL divergence per gain, the cheapest first in the search; infinite where it is unknown."""
    return block.alone.kl_divergence / max(gives[block.block], 1e-12) if block.alone.finite else math.inf


def _spared(chosen: Sequence[BlockSensitivity], gives: Mapping[str, float]) -> list[BlockSensitivity]:
    """Return `chosen` without its most damaging blocks, as many as together gain next to nothing."""
    left = sorted(chosen, key=lambda block: _damage(block, gives))
    least = (1 - SAME_WORTH) * sum(gives[block.block] for block in chosen)
    while left and sum(gives[block.block] for block in left[:-1]) >= least:
        left.pop()
    return left


def kept_steps(steps: Sequence[Step], worth: Worth) -> list[Step]:
    """Sort the kept steps that are worth it, the best first: least damage among those with about the largest gain."""
    kept = sorted((step for step in steps if step.kept and step.worth >= worth.least), key=lambda step: -step.worth)
    most = [step for step in kept if step.worth >= (1 - SAME_WORTH) * kept[0].worth]
    return [*sorted(most, key=lambda step: step.comparison.kl_divergence), *kept[len(most) :]]


def best(steps: Sequence[Step], worth: Worth) -> Step | None:
    """Return the best step; None where none is worth it."""
    return next(iter(kept_steps(steps, worth)), None)
