"""The search for the most that int8 can give within what a user can afford to lose.

Blocks are taken in the order of their damage for what they give; how far down that order a graph can go is found by
halving, each step measured on images that ranges were not taken from: on a few of them where these are enough, for
the graph that is taken is proven on all. Then what the halving skipped is tried, and what hardly gives anything is put
back: nobody would notice it in the latency, but in the logits.
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
SAME_WORTH = 0.02  # of the most that int8 gives: graphs that are closer than that count as equally fast
_LARGEST_SET = 100_000  # images to think of where a budget is tiny
_FILL_SHARE = 0.01  # of all that int8 gives: a block with less is not tried once more
_FILL_TRIES = 4
_UNSURE = 2.0  # the expected changes in other images are known from a few to such a factor


@dataclass(frozen=True)
class Budget:
    """The loss that is allowed.

    Args:
        max_drop: of the metric, in points of a percent; None for no bound.
        min_agreement: share of the images that keep their class; None for no bound.
        metric: accuracy, or balanced accuracy, which a rare class weighs as much in as a common one.

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
        """Return whether a part of `images` is enough: half or twice the changes would leave the verdict as it is."""
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
        """The drop in accuracy, in points, that another set of images exceeds once in 20 times at most."""
        return comparison.expected.likely_drop(self.likely_set(comparison.images))

    def likely_set(self, images: int) -> int:
        """The size of another set that a likely drop is of, where so many images were looked at."""
        return self._set_of(images, (self.max_drop or 0) / 100)

    @staticmethod
    def _set_of(images: int, share: float) -> int:
        """Images of another set: as many, or those of which one is `share`. Less would measure luck alone."""
        return max(images, math.ceil(min(_LARGEST_SET, 1 / share)) if share > 0 else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"max_drop": self.max_drop, "min_agreement": self.min_agreement, "metric": self.metric}


@dataclass(frozen=True)
class Worth:
    """The value of int8 by block: the share of work that goes into it, or of time that a compiled engine saves.

    Args:
        by_block: what each block gives, as a share.
        nodes: names of the products that give it; others stay out of int8.
        least: what an int8 graph must give together.
    """

    by_block: Mapping[str, float]
    nodes: frozenset[str]
    least: float


def by_work(products: Sequence[Product]) -> Worth:
    """Blocks are worth their share of the multiply-adds, where nothing is known of the engine."""
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
        blocks: in int8.
        share: of the multiply-adds in int8.
        worth: what that gives; see `Worth`.
        comparison: with the reference on the held-out images, or on as many as were enough for a verdict.
        likely_drop: in points, of other images; see `Budget.likely_drop`.
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
        trials: on the held-out images.
        sensitivities: of all blocks, on other images.
        budget: what must hold.
        method: of the ranges.
        worth: what each of the blocks gives.
        progress: receives each `Step` as an event.

    Returns:
        All steps in order; for the one to take see `best`.
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
    """KL divergence for what a block gives: what the budget spends least on first; infinite where it is unknown."""
    return block.alone.kl_divergence / max(gives[block.block], 1e-12) if block.alone.finite else math.inf


def _spared(chosen: Sequence[BlockSensitivity], gives: Mapping[str, float]) -> list[BlockSensitivity]:
    """`chosen` without its most damaging blocks, as many as give next to nothing together."""
    left = sorted(chosen, key=lambda block: _damage(block, gives))
    least = (1 - SAME_WORTH) * sum(gives[block.block] for block in chosen)
    while left and sum(gives[block.block] for block in left[:-1]) >= least:
        left.pop()
    return left


def kept_steps(steps: Sequence[Step], worth: Worth) -> list[Step]:
    """Sort the kept steps that are worth it, the best first: of those that give about the most the least damaging."""
    kept = sorted((step for step in steps if step.kept and step.worth >= worth.least), key=lambda step: -step.worth)
    most = [step for step in kept if step.worth >= (1 - SAME_WORTH) * kept[0].worth]
    return [*sorted(most, key=lambda step: step.comparison.kl_divergence), *kept[len(most) :]]


def best(steps: Sequence[Step], worth: Worth) -> Step | None:
    """The step to take; None where none is worth it."""
    return next(iter(kept_steps(steps, worth)), None)
