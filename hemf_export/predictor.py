"""A model that is ready to classify images, and what it makes of them. Knows nothing of files of models."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import special

from hemf import folders
from hemf.errors import BadInputError, CheckFailedError, UsageError
from hemf.folders import LabelledImages
from hemf.grey_levels import GreyLevels
from hemf.images import Preprocess
from hemf.model_input import ModelInput, SourceSize
from hemf.model_output import ModelOutput, OutputType
from hemf_export import image_list
from hemf_export.description import InputType, Precision
from hemf_export.runners import Runner

BATCH = 8


@dataclass(frozen=True)
class Prediction:
    """What a model makes of an image.

    Args:
        path: the image.
        label: the most likely class.
        probability: of that class.
        probabilities: of every class, in the order of the model's classes; their sum is 1, but for a file that gives
            them itself.
    """

    path: Path
    label: str
    probability: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to classify.

    Args:
        name: what computes it and the file, for reports.
        classes: names, in the order of the scores.
        preprocess: images to input.
        precision: of the file; a checkpoint's is fp32.
        runner: input to scores.
        checkpoint_sha256: of the checkpoint that the file is, or was made from.
        emulated: whether float16 is rounded here as a GPU would, which a CPU by itself doesn't.
        input_type: what the runner takes, normalized or raw pixels.
        source_size: of the raw images that the file resizes itself; None where they come to it resized.
        fixed_batch: the only batch size that the file takes; None for any.
        filled: images that are wanted → images that have to be given, as the file takes no batch of fewer.
        notes: what a user should know about how the file was read.
        output_type: what the scores are made of; see `hemf.model_output`.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    precision: Precision
    runner: Runner
    checkpoint_sha256: str = ""
    emulated: bool = False
    input_type: InputType = "float32"
    fixed_batch: int | None = None
    filled: Callable[[int], int] = lambda count: count
    notes: tuple[str, ...] = ()
    source_size: SourceSize | None = None
    output_type: OutputType = "logits"

    @property
    def input(self) -> ModelInput:
        """What the runner takes of an image."""
        return ModelInput(self.preprocess, self.input_type == "uint8", self.source_size)

    @property
    def output(self) -> ModelOutput:
        """What the runner's scores are."""
        return ModelOutput(self.output_type)

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it, in plain types."""
        return {
            "runner": self.name,
            "precision": self.precision,
            "float16_emulated": self.emulated,
            "preprocess": self.preprocess.to_dict(),
            "input_type": self.input_type,
            "source_size": None if self.source_size is None else str(self.source_size),
            "output_type": self.output_type,
            "notes": list(self.notes),
        }

    def predict(
        self,
        paths: Sequence[str | os.PathLike[str]],
        batch: int = BATCH,
        progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
        note: Callable[[str], None] = lambda note: None,
    ) -> list[Prediction]:
        """Classify images. All are decoded once before the first is classified, so that every bad one is named.

        Args:
            paths: image files, and folders whose images are taken, at any depth and sorted.
            batch: images at a time; a file with a fixed batch keeps to its own.
            progress: told the phase, how many images are through it, and of how many.
            note: told what is odd about the images.

        Returns:
            One prediction an image, in their order.

        Raises:
            BadInputError: images that are missing, don't decode or are of a size that the file doesn't take, all of
                them named.
            CheckFailedError: logits that are not finite; the image is named.
        """
        if batch < 1:
            raise UsageError(f"The batch must be at least 1, not {batch}.")
        # A single path is a sequence too, of letters.
        named = [paths] if isinstance(paths, str | os.PathLike) else paths
        files = image_list.collect(named).paths
        listed = LabelledImages(Path(), self.classes, files, None)
        for odd in require_readable(listed, progress, (self.input,)):
            note(odd)
        found: list[Prediction] = []
        progress("classifying", 0, len(files))
        for pixels in folders.batches(listed, self.input, self.fixed_batch or self.filled(batch)):
            found.extend(self._predictions(files[len(found) : len(found) + len(pixels)], self.logits(pixels)))
            progress("classifying", len(found), len(files))
        return found

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (n, H, W, 3) uint8, as `input` takes them from images → scores (n, classes).

        They go through in batches that the file takes: of its fixed size, else all at once.
        """
        size = self.fixed_batch or len(pixels)
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate([self.infer(self.input.network(part)) for part in parts])

    def infer(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input of as many images as the file takes, or fewer → scores (n, classes)."""
        return self.runner.infer(self._filled(inputs))[: len(inputs)]

    def _filled(self, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """A short batch filled up to the size that the file takes with its last image."""
        missing = (self.fixed_batch or self.filled(len(inputs))) - len(inputs)
        return np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)]) if missing > 0 else inputs

    def _predictions(self, paths: Sequence[Path], logits: NDArray[np.float32]) -> list[Prediction]:
        """Scores (n, classes) of n images → predictions."""
        bad = [str(path) for path, row in zip(paths, logits, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise CheckFailedError(
                f"{self.name}: the logits of {', '.join(bad)} are not finite.",
                "Numbers overflow on the way: take the float32 file, or an earlier checkpoint.",
            )
        rows = self.output.probabilities(logits).tolist()
        return [
            Prediction(path, self.classes[top], row[top], tuple(row))
            for path, top, row in zip(paths, logits.argmax(1).tolist(), rows, strict=True)
        ]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (n, classes) → probabilities, in float64."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1), np.float64)


def require_readable(
    images: LabelledImages, progress: Callable[[str, int, int], None], takers: Sequence[ModelInput] = ()
) -> tuple[str, ...]:
    """Decode every image; notes of what is odd about them all.

    Args:
        images: files.
        progress: told the phase, how many images are through it, and of how many.
        takers: what takes them: some files want images of one size.

    Raises:
        BadInputError: some can't be decoded, or are of another size; all of them are named.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    levels = GreyLevels()

    def look(index: int, image: Image.Image) -> None:
        sizes[images.paths[index]] = image.height, image.width
        levels.look(image)

    phase, total, done = "reading images", len(images), itertools.count(1)
    progress(phase, 0, total)
    bad = folders.unreadable(images, lambda: progress(phase, next(done), total), look)
    if bad:
        listed = "\n  ".join(bad.values())
        raise BadInputError(
            f"{len(bad)} of {total} images can't be read:\n  {listed}",
            "Mend them or leave them out; none was classified.",
        )
    for taker in takers:
        taker.require_sizes(dict(sorted(sizes.items())))
    parents = {path.parent for path in images.paths}
    own = images.paths[0].parent if len(parents) == 1 else f"{len(parents)} folders"
    return tuple(levels.notes(str(own if images.root == Path() else images.root)))
