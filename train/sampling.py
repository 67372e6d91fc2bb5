"""The order of an epoch's images, and how they are divided into steps, micro-batches and processes.

Both depend on seed, epoch and sizes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.train.recipe import Sampling


def order(labels: Sequence[int], *, seed: int, epoch: int, sampling: Sampling) -> NDArray[np.int64]:
    """Draw the order of one epoch's images: indices, as many as there are labels.

    Args:
        labels: class of each image.
        seed: seed of the run.
        epoch: counted from 0.
        sampling: "shuffled" takes each image once. "class-balanced" takes each class equally often, to within one
            image (which classes get one more changes with the epoch): images of rare classes are repeated, but none
            before all others of its class; some images of frequent classes are left out.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling == "shuffled":
        return rng.permutation(len(labels))
    truth = np.asarray(labels)
    classes = np.unique(truth)
    quotas = np.full(len(classes), len(truth) // len(classes))
    quotas[rng.permutation(len(classes))[: len(truth) % len(classes)]] += 1
    indices = [_in_turn(np.flatnonzero(truth == name), quota, rng) for name, quota in zip(classes, quotas, strict=True)]
    return rng.permutation(np.concatenate(indices))


def _in_turn(own: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Take `count` of the indices `own`: whole shuffled rounds, then part of one."""
    rounds = [rng.permutation(own) for _ in range(-(-count // len(own)))]
    return np.concatenate([*rounds, own[:0]])[:count]


LEAST_PIECE = 2  # images per process and micro-batch: BatchNorm needs two


@dataclass(frozen=True)
class Division:
    """The division of an epoch into optimizer steps of `batch_size` images, micro-batches and processes.

    Each step's images are divided into `micro_batches` × `processes` pieces, equal to within one image, in the order of
    the epoch: first those of the first micro-batch, one for each process. The last step of an epoch has the remaining
    images, in fewer micro-batches if a piece would have one image; it is left out if even one micro-batch is too many.

    Args:
        images: images per epoch.
        batch_size: images per step.
        micro_batches: micro-batches per step, whose gradients are summed.
        processes: processes that share each micro-batch.

    Raises:
        UsageError: a piece would have fewer than two images.
        BadInputError: there are too few images for one step.
    """

    images: int
    batch_size: int
    micro_batches: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        pieces = self.micro_batches * self.processes
        if self.batch_size < LEAST_PIECE * pieces:
            parts = f"{self.micro_batches} micro-batches" if self.processes == 1 else f"{pieces} pieces"
            raise UsageError(
                f"A batch of {self.batch_size} images can't be divided into {parts}: BatchNorm needs two in each.",
                f"Use `batch_size={LEAST_PIECE * pieces}` or more, or fewer `accumulation_steps`.",
            )
        if not self.steps:
            raise BadInputError(
                f"{self.images} training images are too few for {self.processes} processes: each takes two at once."
            )

    @property
    def steps(self) -> int:
        """Number of steps per epoch."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (rest >= LEAST_PIECE * self.processes)

    def size(self, step: int) -> int:
        """Number of images in a step, over all processes."""
        return min(self.batch_size, self.images - step * self.batch_size)

    def pieces(self, step: int, rank: int) -> list[range]:
        """The positions in the epoch that one process takes in a step, one range per micro-batch."""
        size = self.size(step)
        count = min(self.micro_batches, size // (LEAST_PIECE * self.processes))
        start, parts = step * self.batch_size, count * self.processes
        edges = [start + size * part // parts for part in range(parts + 1)]
        own = range(rank, parts, self.processes)
        return [range(edges[part], edges[part + 1]) for part in own]
