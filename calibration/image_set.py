"""A set of images with what a graph takes of them, and how a part of it is drawn."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf import folders
from hemf.errors import BadInputError
from hemf.folders import LabelledImages
from hemf.model_input import ModelInput


@dataclass(frozen=True)
class ImageSet:
    """Images with what a graph takes of them.

    Args:
        images: files, and labels where the folder has classes.
        taken: how they become the graph's input.
        batch: the graph's fixed batch; images beyond a whole number of batches are left out. None for any.
    """

    images: LabelledImages
    taken: ModelInput
    batch: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """True classes, where there are any."""
        return None if self.images.labels is None else np.asarray(self.images.labels, np.int64)

    def batches(self, size: int) -> Iterator[NDArray[np.generic]]:
        """Network input, `size` images at a time, or the graph's fixed batch."""
        for pixels in folders.batches(self.images, self.taken, self.batch or size):
            yield self.taken.network(pixels)

    def only(self, indices: Sequence[int]) -> ImageSet:
        """The images at `indices`; repeated to fill the last batch of a fixed size."""
        if self.batch is not None:
            missing = -len(indices) % self.batch
            indices = [*indices, *(indices[place % len(indices)] for place in range(missing))]
        return dataclasses.replace(self, images=self.images.select(list(indices)))

    def whole(self, count: int | None = None) -> ImageSet:
        """At most `count` of the images, evenly by class, in whole batches if the graph has a fixed one.

        Raises:
            BadInputError: fewer images than one batch.
        """
        wanted = len(self) if count is None else min(count, len(self))
        if self.batch is not None:
            wanted -= wanted % self.batch
            if not wanted:
                raise BadInputError(
                    f"{self.images.root} gives {len(self)} images; the graph's fixed batch is {self.batch}.",
                    "Give more images, or export with --batch dynamic.",
                )
        chosen = self.images if wanted == len(self) else stratified(self.images, wanted, seed=0)
        return dataclasses.replace(self, images=chosen)

    def content_sha256(self) -> str:
        """Hash of the files' bytes in their order, and of what is taken of them."""
        digest = hashlib.sha256(repr((self.taken, self.batch)).encode())
        for path in self.images.paths:
            digest.update(file_digest(path))
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What was used, for a manifest: the folder, how many of each class, and a hash of the names."""
        return self.images.to_dict()


def stratified(images: LabelledImages, count: int, seed: int) -> LabelledImages:
    """`count` of the images, drawn without order within each class, each class by its share but at least one."""
    if count >= len(images):
        return images
    generator = np.random.default_rng(seed)
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(images.labels or (0,) * len(images)):
        by_class[label].append(index)
    order = {label: list(generator.permutation(indices)) for label, indices in sorted(by_class.items())}
    # Of every class the share count/len; what rounding leaves over goes to those that lost most by it.
    exact = {label: len(indices) * count / len(images) for label, indices in order.items()}
    taken = {label: min(len(order[label]), max(1, int(share))) for label, share in exact.items()}
    by_loss = sorted(exact, key=lambda label: taken[label] - exact[label])
    while sum(taken.values()) != count:
        step = 1 if sum(taken.values()) < count else -1
        for label in by_loss if step > 0 else reversed(by_loss):
            room = taken[label] < len(order[label]) if step > 0 else taken[label] > (1 if count >= len(order) else 0)
            if room and sum(taken.values()) != count:
                taken[label] += step
    return images.select(sorted(int(index) for label in order for index in order[label][: taken[label]]))


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
