"""Which image comes when in an epoch: a matter of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hemf_export.train.recipe import Sampling


def order(labels: Sequence[int], *, seed: int, epoch: int, sampling: Sampling) -> NDArray[np.int64]:
    """Indices of one epoch's images, as many as there are labels.

    Args:
        labels: class of each image.
        seed: of the run.
        epoch: counted from 0.
        sampling: "shuffled" takes each image once. "class-balanced" takes each class equally often, to within one
            image (which classes get one more changes with the epoch): images of rare classes come several times, but
            none again before all of its class were there; of frequent classes some stay out.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling == "shuffled":
        return rng.permutation(len(labels))
    truth = np.asarray(labels)
    classes = np.unique(truth)
    quotas = np.full(len(classes), len(truth) // len(classes))
    quotas[rng.permutation(len(classes))[: len(truth) % len(classes)]] += 1
    drawn = [_in_turn(np.flatnonzero(truth == name), quota, rng) for name, quota in zip(classes, quotas, strict=True)]
    return rng.permutation(np.concatenate(drawn))


def _in_turn(own: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of the indices `own`: whole shuffled rounds, then a part of one."""
    rounds = [rng.permutation(own) for _ in range(-(-count // len(own)))]
    return np.concatenate([*rounds, own[:0]])[:count]
