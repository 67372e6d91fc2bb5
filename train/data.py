"""Images as input tensors: augmented and in the epoch's order for training, unchanged for evaluation.

Order and augmentation are drawn from (seed, epoch, image), never from a global generator: the tensors are the same with
any number of loader processes, in any process of a run, and after resuming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess, decode
from hemf_export.train import distributed, loader_processes
from hemf_export.train.augmentation import augment
from hemf_export.train.recipe import Recipe
from hemf_export.train.sampling import Division, order

Key = tuple[int, int]  # epoch, counted from 0, and position in its order


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """The augmented images of all epochs, indexed by (epoch, position in its order).

    Args:
        images: files and labels.
        preprocess: size and normalization.
        recipe: augmentation, sampling, and the seed of both.
    """

    def __init__(self, images: LabelledImages, preprocess: Preprocess, recipe: Recipe) -> None:
        assert images.labels is not None
        self.images, self.preprocess, self.recipe = images, preprocess, recipe
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch's images, in their order."""
        if epoch != self._epoch:
            assert self.images.labels is not None
            self._order = order(self.images.labels, seed=self.recipe.seed, epoch=epoch, sampling=self.recipe.sampling)
            self._epoch = epoch
        return self._order

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, position = key
        index = int(self.order(epoch)[position])
        assert self.images.labels is not None
        stream = [self.recipe.seed, epoch, index]
        if self.recipe.sampling != "shuffled":
            stream.append(position)  # a repeated image is augmented differently
        rng = np.random.default_rng(stream)
        pixels = augment(decode(self.images.paths[index]), self.preprocess.size, rng, self.recipe)
        return torch.from_numpy(self.preprocess.normalize(pixels)), self.images.labels[index]


class TrainingLoader:
    """The batches of a run, prefetched by loader processes that persist over the epochs.

    Args:
        dataset: the images.
        division: of an epoch into steps, micro-batches and processes.
        rank: of this process.
        workers: loader processes; 0 to load in this one.
        pin_memory: use page-locked memory, for a GPU.

    Raises:
        MissingCapabilityError: shared memory has no room for the prefetched batches.
    """

    def __init__(
        self, dataset: TrainingImages, division: Division, *, rank: int = 0, workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.division, self.keys = division, _Keys(division, rank)
        if workers:
            sizes = [len(piece) for step in range(division.steps) for piece in division.pieces(step, rank)]
            largest = max(sizes) * image_bytes(dataset.preprocess)
            loader_processes.require_room(workers, len(sizes), largest, distributed.current().local_size)
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_sampler=self.keys,
            num_workers=workers,
            collate_fn=_batch,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # unused; without one, DataLoader would advance the global generator
        )

    def epoch(self, epoch: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Iterate over the steps of an epoch: each a list of this process's micro-batches.

        A micro-batch is images (n, 3, size, size) and labels (n,).
        """
        assert self._loader is not None
        self.keys.epoch = epoch
        batches = iter(self._loader)
        for step in range(self.division.steps):
            yield [next(batches) for _ in self.division.pieces(step, self.keys.rank)]

    def close(self) -> None:
        """End the loader processes."""
        self._loader = None


def image_bytes(preprocess: Preprocess) -> int:
    """Memory of one input image in bytes: three channels of float32."""
    return 3 * preprocess.size**2 * 4


def _batch(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Collate images and labels, both into shared memory in a loader process.

    PyTorch's default moves images there, and leaves labels to a thread of that process: if there is no room, that error
    is lost and the run would wait forever.
    """
    images, labels = default_collate(samples)
    if get_worker_info() is not None:
        labels.share_memory_()
    return images, labels


class _Keys(Sampler[list[Key]]):
    """The keys of each micro-batch of an epoch."""

    def __init__(self, division: Division, rank: int) -> None:
        self.division, self.rank, self.epoch = division, rank, 0

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.division.steps):
            for piece in self.division.pieces(step, self.rank):
                yield [(self.epoch, position) for position in piece]


class _EvaluationImages(Dataset[Tensor]):
    def __init__(self, images: LabelledImages, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.preprocess.normalize(self.preprocess.load(self.images.paths[index])))


def evaluation_batches(
    images: LabelledImages, preprocess: Preprocess, batch_size: int, *, workers: int, pin_memory: bool
) -> Iterator[Tensor]:
    """Iterate over images (n, 3, size, size) in the list's order, not augmented; `workers` processes prefetch.

    Raises:
        MissingCapabilityError: shared memory has no room for the prefetched batches.
    """
    if not workers:
        for pixels in folders.batches(images, preprocess, batch_size):
            yield torch.from_numpy(preprocess.normalize(pixels))
        return
    batches = -(-len(images) // batch_size)
    workers = min(workers, batches)
    largest = min(batch_size, len(images)) * image_bytes(preprocess)
    loader_processes.require_room(workers, batches, largest, distributed.current().local_size)
    yield from DataLoader(
        _EvaluationImages(images, preprocess),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
