"""Proving that two runners compute the same: logit differences and top-1 agreement, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf import folders
from hemf.errors import CheckFailedError
from hemf.folders import LabelledImages
from hemf.model_input import ModelInput


@dataclass(frozen=True)
class Parity:
    """How far a candidate's logits are from the reference's.

    Args:
        images: how many were compared.
        source: what they were: a folder's name, or seeded noise.
        batches: the batch sizes that were run, in order.
        max_difference: the largest absolute difference of a logit.
        mean_difference: the mean.
        agreement: share of the images with the same top-1 class.
        finite: whether every logit on both sides was.
        largest_logit: of the reference, absolute.
        accuracy: of the candidate and of the reference, where there are labels.
    """

    images: int
    source: str
    batches: tuple[int, ...]
    max_difference: float
    mean_difference: float
    agreement: float
    finite: bool
    largest_logit: float
    accuracy: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        values = {**vars(self), "batches": list(self.batches)}
        if self.accuracy is not None:
            values["accuracy"] = {"candidate": self.accuracy[0], "reference": self.accuracy[1]}
        return values

    def require(
        self, what: str, *, option: str, max_difference: float, min_agreement: float = 0.0, noun: str = "logit"
    ) -> None:
        """Raise CheckFailedError where a bound is missed or a logit is not finite (NaN on both sides is no parity).

        `option` is what sets `max_difference`, and `noun` what differs, for the message.
        """
        if not self.finite:
            raise CheckFailedError(f"{what}: logits that are not finite.", "The file was not kept.")
        if not self.max_difference <= max_difference:
            raise CheckFailedError(
                f"{what}: a {noun} differs by {self.max_difference:.3g}; the bound is {max_difference:g} "
                f"({self.images} images of {self.source}).",
                f"The file was not kept. The largest {noun} is {self.largest_logit:.3g}: if so small a share of it is "
                f"rounding, set {option}.",
            )
        if not self.agreement >= min_agreement:
            raise CheckFailedError(
                f"{what}: {self.agreement:.2%} of {self.images} images keep their class, bound {min_agreement:.2%}.",
                "The file was not kept.",
            )


def compare(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    source: str,
    batches: tuple[int, ...],
    labels: tuple[int, ...] | None = None,
) -> Parity:
    """Compare logits (n, classes) of the same images."""
    assert candidate.shape == reference.shape, "the same images on both sides"
    sides = np.isfinite(candidate).all(1), np.isfinite(reference).all(1)
    both = sides[0] & sides[1]  # NaN has no class: where there is one, an image is neither right nor the same
    finite = bool(both.all())
    with np.errstate(invalid="ignore"):
        difference = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
    tops = candidate.argmax(1), reference.argmax(1)
    accuracy = None
    if labels is not None:
        truth = np.asarray(labels)
        accuracy = float(((tops[0] == truth) & sides[0]).mean()), float(((tops[1] == truth) & sides[1]).mean())
    return Parity(
        images=len(candidate),
        source=source,
        batches=batches,
        max_difference=float(difference.max()) if finite else float("nan"),
        mean_difference=float(difference.mean()) if finite else float("nan"),
        agreement=float(((tops[0] == tops[1]) & both).mean()),
        finite=finite,
        largest_logit=float(np.abs(reference).max()),
        accuracy=accuracy,
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
    def labels(self) -> tuple[int, ...] | None:
        """True classes, where the folder has them."""
        return None if self.files is None else self.files.labels

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
