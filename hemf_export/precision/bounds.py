"""What an FP16 graph may differ by from the float32 file that it is made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hemf_export.files.errors import CheckFailedError, UsageError
from hemf_export.files.model_output import ModelOutput
from hemf_export.metrics.comparison import Comparison

MAX_LOGIT_DIFFERENCE = 0.05
MAX_SHARE_OF_LOGITS = 0.01  # float16 has three digits: a network of large logits may differ by more
MAX_PROBABILITY_DIFFERENCE = 0.025  # what two logits that differ by their bound do to a probability at most
MIN_AGREEMENT = 0.99


class BoundMissedError(CheckFailedError):
    """No graph keeps the bounds or the budget.

    Args:
        what: the graph.
        problems: the bounds that it missed, in words.
        images: that it was proven on.
    """

    def __init__(self, what: str, problems: Sequence[str], images: str) -> None:
        super().__init__(
            f"{what}: {'; '.join(problems)} ({images}).",
            "No file was kept. The float32 file keeps its figures. "
            "To allow more: `max_logit_diff`, `min_agreement` or `max_drop`.",
        )


@dataclass(frozen=True)
class Bounds:
    """The bounds that a proof of an FP16 graph requires.

    Args:
        max_logit_difference: of any logit, or of any probability where a file gives those; None for
            `MAX_LOGIT_DIFFERENCE`, or `MAX_SHARE_OF_LOGITS` of the largest float32 logit where that is more, and for
            `MAX_PROBABILITY_DIFFERENCE` of probabilities.
        min_agreement: share of the images that keep their class; None for `MIN_AGREEMENT` on real images, where one may
            always change, and for nothing on noise: where two classes lie closer together than float16 can tell, no
            image shows more than that.

    Raises:
        UsageError: a value out of range.
    """

    max_logit_difference: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_logit_difference is not None and not 0 <= self.max_logit_difference < math.inf:
            raise UsageError(f"The largest logit difference must be 0 or more, not {self.max_logit_difference}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"The agreement is a share, 0 to 1, not {self.min_agreement}.")

    def least_agreement(self, images: int, *, noise: bool = False) -> float:
        """The least share of so many images that must keep their class."""
        if self.min_agreement is not None:
            return self.min_agreement
        return 0.0 if noise else min(MIN_AGREEMENT, 1 - 1 / images)

    def score_bound(self, output: ModelOutput, largest: float) -> float:
        """The bound for what a file gives, of which the largest float32 score is `largest`."""
        if output.of_probabilities and self.max_logit_difference is None:
            return MAX_PROBABILITY_DIFFERENCE
        return self.logit_bound(largest)

    def logit_bound(self, largest_logit: float) -> float:
        """The bound for float32 logits of at most this size."""
        if self.max_logit_difference is not None:
            return self.max_logit_difference
        return max(MAX_LOGIT_DIFFERENCE, MAX_SHARE_OF_LOGITS * largest_logit)

    def missed(self, comparison: Comparison, output: ModelOutput, *, noise: bool = False) -> list[str]:
        """List, in words, the bounds that a graph misses.

        Args:
            comparison: of the graph with the float32 file.
            output: what the file gives.
            noise: whether the images are noise.
        """
        if not comparison.finite:
            return ["logits that are not finite"]
        bound = self.score_bound(output, comparison.largest_logit)
        problems, difference = [], comparison.logit_difference.max
        if not difference <= bound:
            problems.append(f"a {output.noun} differs by {difference:.3g}, bound {bound:.3g}")
        least = self.least_agreement(comparison.images, noise=noise)
        if comparison.agreement < least:
            problems.append(f"{comparison.agreement:.2%} keep their class, bound {least:.2%}")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest: None stands for the default."""
        return dict(vars(self))
