"""Tests of which models differ by more than chance: McNemar's exact test of each pair, corrected for their number."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.metrics.comparison import mcnemar


@dataclass(frozen=True)
class Pair:
    """McNemar's exact test of two models on the same images.

    Args:
        first: name of one model.
        second: name of the other.
        only_first: images that only the first classifies correctly.
        only_second: images that only the second classifies correctly.
        p_value: two-sided p-value of the pair alone.
        corrected: p-value after Holm's correction for all pairs.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float
    corrected: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dict(vars(self))


def compare_all(right: Mapping[str, NDArray[np.bool_]]) -> list[Pair]:
    """Test each pair of models.

    Args:
        right: whether each model, by name, classifies each image (n,) correctly; the same images for all.

    Returns:
        All pairs, in the order of the models.
    """
    tests = [
        (first, second, mcnemar(right[second], right[first])) for first, second in itertools.combinations(right, 2)
    ]
    corrected = holm([test.p_value for _, _, test in tests])
    return [
        Pair(first, second, test.losses, test.gains, test.p_value, value)
        for (first, second, test), value in zip(tests, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that any false rejection has at most the level's probability (Holm 1979).

    The k-th smallest of n is multiplied by n - k + 1; none is smaller than one before it, nor larger than 1.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
