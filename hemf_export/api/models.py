"""A model that classifies images: a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from hemf_export.api.results import PathLike, Shown
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL import Image

    from hemf_export.images.images import Preprocess
    from hemf_export.models.description import Description
    from hemf_export.models.model_file import ModelFile
    from hemf_export.models.predictor import Prediction, Predictor

    Picture = PathLike | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Model(Shown):
    """A model that is ready to classify.

    Args:
        file: where it was read from: path, kind, hash, manifest.
    """

    file: ModelFile
    _predictor: Predictor = field(repr=False)

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.file.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._predictor.classes

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self._predictor.preprocess

    @property
    def description(self) -> Description:
        """Description that the file carries."""
        return self.file.description

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file was read."""
        return self._predictor.notes

    def predict(self, images: Picture | Iterable[Picture], *, batch: int = 8) -> list[Prediction]:
        """Classify images, each decoded once.

        Args:
            images: a path, a PIL image, an array (H, W, 3) uint8, or any iterable of these. A folder stands for all
                images below it, sorted.
            batch: images at a time; a file with a fixed batch keeps to its own.

        Returns:
            One prediction an image, in their order; `path` is empty for images that came from memory.

        Raises:
            BadInputError: an image that doesn't decode, or of a size that the file doesn't take.
            CheckFailedError: logits that are not finite.

        Examples:
            >>> model = hemf_export.load("best.onnx")
            >>> [prediction.label for prediction in model.predict("data/test/dark")][:2]
            ['dark', 'dark']
        """
        return list(self.stream(images, batch=batch))

    def stream(self, images: Picture | Iterable[Picture], *, batch: int = 8) -> Iterator[Prediction]:
        """Classify images as they come, holding one batch of them at a time; see `predict`."""
        if batch < 1:
            raise UsageError(f"The batch must be at least 1, not {batch}.")
        return self._predictor.stream(_each(images), batch)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model on pixels.

        Args:
            pixels: (n, H, W, 3) uint8, as `preprocess` makes them of images.

        Returns:
            (n, classes): logits, or probabilities where the file gives those.
        """
        return self._predictor.logits(pixels)

    def to_dict(self) -> dict[str, object]:
        """Describe the model as reports do, in plain types."""
        return {"file": str(self.path), "sha256": self.file.sha256, **self._predictor.to_dict()}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            "file": str(self.path),
            "kind": self.file.kind,
            "precision": self._predictor.precision,
            "classes": ", ".join(self.classes),
            "input": f"{self.preprocess.size} px",
        }


def load(
    path: PathLike,
    *,
    classes: Sequence[str] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    progress: Progress = SILENT,
) -> Model:
    """Load a model: a checkpoint, an ONNX file (both run on the CPU) or an engine (on its GPU).

    Args:
        path: the file.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint, such as "ema".
        image_size: input size in pixels, for a checkpoint that leaves it open.
        progress: receives the steps.

    Raises:
        BadInputError: no such file, a damaged one, or one that its manifest doesn't describe.
        MissingCapabilityError: an engine for another GPU or TensorRT than this machine has.

    Examples:
        >>> hemf_export.load("best.pt").classes
        ('bright', 'dark', 'striped')
    """
    from hemf_export.checkpoints.reading import PLAIN, Reading
    from hemf_export.models.model_file import ModelFile

    reading = PLAIN if weights is None and image_size is None else Reading(weights, image_size)
    names = None if classes is None else tuple(classes)
    with progress.task(f"Reading {Path(path).name}"):
        file = ModelFile.open(Path(path), classes=names, reading=reading)
        return Model(file, file.predictor())


def _each(images: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """Single images one by one, folders as the images below them."""
    from PIL import Image

    from hemf_export.images import image_list

    single = isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    for image in cast("Iterable[Picture]", [images] if single else images):
        if isinstance(image, str | os.PathLike):
            yield from image_list.collect([image]).paths
        else:
            yield image
