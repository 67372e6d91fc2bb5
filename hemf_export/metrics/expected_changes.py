"""Estimate the changes of class to expect on other images, from how far a candidate's logits moved on some.

Counting hardly shows a drop of half a point on a few hundred images: a single image decides. How far the margins moved,
and how many images are near the decision boundary between their two most likely classes, tells more, even where no
image crosses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_NEAR_SHARE = 0.1  # of the images, those with the smallest margins: noise and density are taken from them
_NEAR_LEAST = 10


@dataclass(frozen=True)
class ExpectedChanges:
    """Expected changes of class, as shares of the images of other sets like this one.

    Args:
        changes: images expected to change class.
        losses: images expected to become wrong, at worst; all changes without labels.
        gains: images expected to become right; never more than losses.
    """

    changes: float
    losses: float
    gains: float

    def times(self, factor: float) -> ExpectedChanges:
        """Scale the changes, losses and gains."""
        return ExpectedChanges(self.changes * factor, self.losses * factor, self.gains * factor)

    def likely_drop(self, images: int) -> float:
        """Upper 95 % bound of the drop in accuracy on another set of so many images, in percentage points."""
        # Rare and independent: losses and gains are Poisson distributed, and the drop is their difference (Skellam).
        losses, gains = _poisson(images * self.losses), _poisson(images * self.gains)
        difference = np.convolve(losses, gains[::-1])  # from -(len(gains) - 1) up
        place = int(np.searchsorted(np.cumsum(difference), CONFIDENCE * difference.sum()))
        return 100 * (place - (len(gains) - 1)) / images

    def likely_changes(self, images: int) -> float:
        """Upper 95 % bound of the share of changed images in another set of so many."""
        cumulated = np.cumsum(_poisson(images * self.changes))
        return float(np.searchsorted(cumulated, CONFIDENCE * cumulated[-1])) / images


def estimate(
    candidate: NDArray[np.floating], reference: NDArray[np.floating], labels: NDArray[np.int64] | None
) -> ExpectedChanges:
    """Estimate expected changes from finite logits (n, classes) of the same images, and labels (n,) if known."""
    if reference.shape[1] < 2:
        return ExpectedChanges(0.0, 0.0, 0.0)
    candidate, reference = candidate.astype(np.float64), reference.astype(np.float64)
    rows = np.arange(len(reference))
    first, second = np.argsort(reference, 1)[:, :-3:-1].T
    margins = reference[rows, first] - reference[rows, second]
    moved = candidate[rows, first] - candidate[rows, second] - margins
    # Images far from the boundary often move less or more than those that may cross it: only these count.
    order = np.argsort(margins, kind="stable")
    near = order[: max(_NEAR_LEAST, round(_NEAR_SHARE * len(rows)))]
    spread = math.sqrt(float((moved[near] ** 2).mean()))
    changes = 0.0 if spread == 0 else _crossings(margins[order], len(near), spread)
    if labels is None:
        return ExpectedChanges(changes, changes, 0.0)
    # Add-one smoothing: ten images without a loss don't prove that there is none. Nor do a few prove that changes are
    # improvements: the larger of the two shares is taken for the losses.
    shares = [(float((side[near] == labels[near]).sum()) + 1) / (len(near) + 2) for side in (first, second)]
    return ExpectedChanges(changes, changes * max(shares), changes * min(shares))


def _crossings(margins: NDArray[np.float64], near: int, spread: float) -> float:
    """Mean of Φ(−margin / spread) over sorted margins; those of the nearest images are taken as uniform from zero up.

    Otherwise one image that happens to be on the boundary would count as half a change, whatever the noise.
    """
    border = float(margins[near - 1])
    far = sum(_beyond(margin / spread) for margin in margins[near:])
    if border <= 0:
        return (far + 0.5 * near) / len(margins)
    end = border / spread
    density = math.exp(-(end**2) / 2)
    mean = (end * _beyond(end) + (1 - density) / math.sqrt(2 * math.pi)) / end  # of Φ(−x) over 0 … end
    return (far + near * mean) / len(margins)


def _beyond(deviations: float) -> float:
    return 0.5 * math.erfc(deviations / math.sqrt(2))


def _poisson(mean: float) -> NDArray[np.float64]:
    """Poisson probabilities of 0, 1, 2 … up to where they are negligible."""
    counts = np.arange(math.ceil(mean + 10 * math.sqrt(mean)) + 12)
    logs = counts * math.log(max(mean, 1e-300)) - mean - np.array([math.lgamma(count + 1) for count in counts])
    return np.exp(logs)
