"""Parity: proof that a file computes what it was made from, and the images that it is proven on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.files.errors import CheckFailedError
from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics.comparison import Comparison


@dataclass(frozen=True)
class Parity:
    """A comparison of a file with its reference, and the images that it was made on.

    Args:
        comparison: the file's scores beside the reference's.
        source: where the images are from: a folder's name, or seeded noise.
        batches: the batch sizes that were run, in order.
    """

    comparison: Comparison
    source: str
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**self.comparison.to_dict(), "source": self.source, "batches": list(self.batches)}

    def require(self, what: str, *, option: str, max_difference: float, min_agreement: float = 0.0) -> None:
        """Raise CheckFailedError where a bound is missed or a logit is not finite (NaN on both sides is no parity).

        `option` is what sets `max_difference`, for the message.
        """
        found, noun = self.comparison, self.comparison.output.noun
        if not found.finite:
            raise CheckFailedError(f"{what}: logits that are not finite.", "The file was not kept.")
        if not found.logit_difference.max <= max_difference:
            raise CheckFailedError(
                f"{what}: a {noun} differs by {found.logit_difference.max:.3g}; the bound is {max_difference:g} "
                f"({found.images} images of {self.source}).",
                f"The file was not kept. The largest {noun} is {found.largest_logit:.3g}: if so small a share of it is "
                f"rounding, set {option}.",
            )
        if not found.agreement >= min_agreement:
            raise CheckFailedError(
                f"{what}: {found.agreement:.2%} of {found.images} images keep their class, bound {min_agreement:.2%}.",
                "The file was not kept.",
            )


class Samples:
    """Images to prove on, as pixels: those of a folder, or seeded noise.

    Args:
        taken: what is kept of them, and how the files are read.
        images: files; None for noise.
        count: at most so many, spread evenly over the files.
    """

    NOISE_SEED = 20250

    def __init__(self, taken: ModelInput, images: LabelledImages | None, count: int) -> None:
        self.taken = taken
        self.files = None if images is None else images.spread(count)
        self.count = count if self.files is None else len(self.files)
        self.source = f"seeded noise ({self.NOISE_SEED})" if self.files is None else str(self.files.root)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """True classes (n,), where the folder has them."""
        return None if self.files is None or self.files.labels is None else np.asarray(self.files.labels, np.int64)

    def pixels(self, sizes: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
        """Batches (n, H, W, 3) of the given sizes, in order; short ones at the end where the images run out.

        Raises:
            BadInputError: an image of another size than the file takes.
        """
        start = 0
        generator = np.random.default_rng(self.NOISE_SEED)
        image = self.taken.height, self.taken.width, 3
        for size in sizes:
            size = min(size, self.count - start)
            if size <= 0:
                return
            if self.files is None:
                yield generator.integers(0, 256, (size, *image), dtype=np.uint8)
            else:
                yield from folders.batches(self.files.select(range(start, start + size)), self.taken, size)
            start += size


def image_folder(folder: Path | None, classes: tuple[str, ...] | None) -> LabelledImages | None:
    """The images of `folder`, with labels where it has class folders (of `classes`, if said); None for None."""
    return None if folder is None else folders.any_images(folder, classes)
