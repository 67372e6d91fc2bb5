"""Parity: comparison of a file with what it was made from, and the images for it."""

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
    """Comparison of a file with its reference.

    Args:
        comparison: comparison of their scores.
        source: source of the images: a folder, or seeded noise.
        batches: batch sizes that were run, in order.
    """

    comparison: Comparison
    source: str
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**self.comparison.to_dict(), "source": self.source, "batches": list(self.batches)}

    def require(self, what: str, *, option: str, max_difference: float, min_agreement: float = 0.0) -> None:
        """Raise CheckFailedError where a bound is exceeded or a logit is not finite (NaN on both sides isn't parity).

        Args:
            what: the comparison, for messages.
            option: name of the option for `max_difference`, for messages.
            max_difference: largest difference of a score.
            min_agreement: least share of the images that keep their class.
        """
        compared, noun = self.comparison, self.comparison.output.noun
        if not compared.finite:
            raise CheckFailedError(f"{what}: logits that are not finite.", "The file was not kept.")
        if not compared.logit_difference.max <= max_difference:
            raise CheckFailedError(
                f"{what}: a {noun} differs by {compared.logit_difference.max:.3g}; the bound is {max_difference:g} "
                f"({compared.images} images of {self.source}).",
                f"The file was not kept. The largest {noun} is {compared.largest_logit:.3g}: if so small a share of it "
                f"is rounding, set {option}.",
            )
        if not compared.agreement >= min_agreement:
            raise CheckFailedError(
                f"{what}: {compared.agreement:.2%} of {compared.images} images keep their class, "
                f"bound {min_agreement:.2%}.",
                "The file was not kept.",
            )


class Samples:
    """Images for a proof, as pixels: of a folder, or seeded noise.

    Args:
        model_input: how an image file becomes pixels.
        images: image files; None for noise.
        count: largest number of images, spread evenly over the files.
    """

    NOISE_SEED = 20250

    def __init__(self, model_input: ModelInput, images: LabelledImages | None, count: int) -> None:
        self.input = model_input
        self.files = None if images is None else images.spread(count)
        self.count = count if self.files is None else len(self.files)
        self.source = f"seeded noise ({self.NOISE_SEED})" if self.files is None else str(self.files.root)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """True classes (n,); None without labels."""
        return None if self.files is None or self.files.labels is None else np.asarray(self.files.labels, np.int64)

    def pixels(self, sizes: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
        """Yield batches (n, H, W, 3) of the given sizes, in order; shorter ones at the end where images run out.

        Raises:
            BadInputError: an image of another size than the model takes.
        """
        start = 0
        generator = np.random.default_rng(self.NOISE_SEED)
        image = self.input.height, self.input.width, 3
        for size in sizes:
            size = min(size, self.count - start)
            if size <= 0:
                return
            if self.files is None:
                yield generator.integers(0, 256, (size, *image), dtype=np.uint8)
            else:
                yield from folders.batches(self.files.select(range(start, start + size)), self.input, size)
            start += size


def image_folder(folder: Path | None, classes: tuple[str, ...] | None) -> LabelledImages | None:
    """List the images of `folder`, labelled where it has class folders (of `classes`, if given); None for None."""
    return None if folder is None else folders.any_images(folder, classes)
