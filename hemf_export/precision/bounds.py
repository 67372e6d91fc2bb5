"""Bounds on the difference of float32 logits from one library or device to another, and of FP16 ones from float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hemf_export.export.onnx_export import TOLERANCE
from hemf_export.files.errors import CheckFailedError, UsageError
from hemf_export.files.model_output import ModelOutput
from hemf_export.metrics.comparison import Comparison

MAX_LOGIT_DIFFERENCE = 0.05
MAX_SHARE_OF_LOGITS = 0.01  # float16 has three digits: large logits may differ by more
MAX_PROBABILITY_DIFFERENCE = 0.025  # largest effect on a probability of two logits that differ by their bound
MIN_AGREEMENT = 0.99
# Shares of the largest logit, for float32 against float32. On a GPU sums of thousands of products run in another order,
# by another algorithm per shape: each has a relative error of about √n · 6e-8, which grows layer by layer. TF32, which
# rounds each factor by up to 5e-4, stays out.
MAX_SHARE_OF_LOGITS_FP32 = 1e-5
MAX_SHARE_OF_LOGITS_FP32_ON_GPU = 1e-4


def float32_bound(largest_logit: float, *, on_gpu: bool) -> float:
    """Bound on the difference of a float32 logit, given the largest one.

    Args:
        largest_logit: largest absolute value of a reference logit.
        on_gpu: whether one of the two was computed on a GPU.
    """
    return max(TOLERANCE, (MAX_SHARE_OF_LOGITS_FP32_ON_GPU if on_gpu else MAX_SHARE_OF_LOGITS_FP32) * largest_logit)


class BoundMissedError(CheckFailedError):
    """Every graph exceeds the bounds or the budget.

    Args:
        what: the graph.
        problems: the bounds that it exceeds, in words.
        images: the images of the proof, in words.
    """

    def __init__(self, what: str, problems: Sequence[str], images: str) -> None:
        super().__init__(
            f"{what}: {'; '.join(problems)} ({images}).",
            "No file was kept. The float32 file is unchanged. "
            "To allow more: `max_logit_diff`, `min_agreement` or `max_drop`.",
        )


@dataclass(frozen=True)
class Bounds:
    """Bounds that an FP16 graph must keep in its proof.

    Args:
        max_logit_difference: largest difference of a logit, or of a probability for a model that outputs those; None
            for `MAX_LOGIT_DIFFERENCE`, or `MAX_SHARE_OF_LOGITS` of the largest float32 logit if that is larger, and for
            `MAX_PROBABILITY_DIFFERENCE` of probabilities.
        min_agreement: least share of the images that keep their class; None for `MIN_AGREEMENT` on real images, of
            which one may always change, and for 0 on noise, where two classes may be closer together than float16
            resolves.

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
        """Least share of so many images that must keep their class."""
        if self.min_agreement is not None:
            return self.min_agreement
        return 0.0 if noise else min(MIN_AGREEMENT, 1 - 1 / images)

    def score_bound(self, output: ModelOutput, largest: float) -> float:
        """Bound on the difference of a score, given the largest float32 score."""
        if output.of_probabilities and self.max_logit_difference is None:
            return MAX_PROBABILITY_DIFFERENCE
        return self.logit_bound(largest)

    def logit_bound(self, largest_logit: float) -> float:
        """Bound on the difference of a logit, given the largest float32 logit."""
        if self.max_logit_difference is not None:
            return self.max_logit_difference
        return max(MAX_LOGIT_DIFFERENCE, MAX_SHARE_OF_LOGITS * largest_logit)

    def missed(self, comparison: Comparison, output: ModelOutput, *, noise: bool = False) -> list[str]:
        """List the bounds that a graph exceeds, in words.

        Args:
            comparison: comparison of the graph with the float32 file.
            output: output of the model.
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
        """Plain types, for a manifest; None for a default."""
        return dict(vars(self))
