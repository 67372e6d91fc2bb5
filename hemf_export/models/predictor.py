"""A loaded model that classifies images. Independent of model files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import special

from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import folders, image_list
from hemf_export.images.folders import LabelledImages
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.images.images import PixelArray, decode, of_memory
from hemf_export.images.model_input import ModelInput
from hemf_export.models.description import Description
from hemf_export.models.runners import Runner

BATCH = 8
Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Args:
        path: the image file; empty for an image from memory.
        label: most likely class.
        probability: probability of that class.
        probabilities: probability of every class, in the order of the model's classes; they sum to 1, unless the model
            itself outputs other probabilities.
    """

    path: Path
    label: str
    probability: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class _Faults:
    """Faults of images, collected so that all can be reported.

    Args:
        messages: errors of images that can't be decoded.
        sizes: height and width of images that the model doesn't take.
        levels: grey levels of all images.
    """

    messages: dict[Path, str] = field(default_factory=dict)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    levels: GreyLevels = field(default_factory=GreyLevels)

    @property
    def any(self) -> bool:
        """Whether any image can't be classified."""
        return bool(self.messages or self.sizes)


@dataclass(frozen=True)
class Predictor:
    """A loaded model.

    Args:
        description: description of the model: classes, preprocessing, input and output.
        runner: computes scores of network input.
        emulated: whether float16 results are rounded as on a GPU, which a CPU by itself doesn't do.
        fixed_batch: the only batch size that the runner takes; None for any.
        filled: maps a number of images to the batch size that the runner needs for them.
        notes: remarks for the user on how the file was read.
    """

    description: Description
    runner: Runner
    emulated: bool = False
    fixed_batch: int | None = None
    filled: Callable[[int], int] = lambda count: count
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the runner and the file, for reports."""
        return self.runner.name

    def batch_size(self, wanted: int) -> int:
        """Batch size that is used where `wanted` images at a time are asked for."""
        return self.fixed_batch or self.filled(wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for reports."""
        description, size = self.description, self.description.source_size
        return {
            "runner": self.name,
            "precision": description.precision,
            "float16_emulated": self.emulated,
            "preprocess": description.preprocess.to_dict(),
            "input_type": description.input_type,
            "source_size": None if size is None else str(size),
            "output_type": description.output_type,
            "notes": list(self.notes),
        }

    def predict(
        self,
        paths: Sequence[str | os.PathLike[str]],
        batch: int = BATCH,
        progress: Progress = SILENT,
    ) -> list[Prediction]:
        """Classify image files, each decoded once.

        Args:
            paths: image files, and folders, whose images at any depth are taken, sorted.
            batch: images at a time; a file with a fixed batch keeps to its own.
            progress: receives the number of images done, and notes on them.

        Returns:
            One prediction per image, in order.

        Raises:
            BadInputError: images that are missing, don't decode or are of a size that the file doesn't take, all of
                them named.
            CheckFailedError: logits that are not finite; the image is named.
        """
        # A single string is a sequence too, of characters.
        named = [paths] if isinstance(paths, str | os.PathLike) else paths
        files = image_list.collect(named).paths
        faults, predictions = _Faults(), list[Prediction]()
        with progress.task("Classifying", len(files), "images") as task:
            for prediction in self._stream(files, batch, faults):
                predictions.append(prediction)
                task.advance()
        if faults.messages:
            messages = [faults.messages[path] for path in files if path in faults.messages]
            raise _unreadable(messages, len(files), "Mend them or leave them out.")
        self.description.input.require_sizes(dict(sorted(faults.sizes.items())))
        if files:
            parents = {path.parent for path in files}
            for odd in faults.levels.notes(str(files[0].parent) if len(parents) == 1 else f"{len(parents)} folders"):
                progress.note(odd)
        return predictions

    def stream(self, images: Iterable[Picture], batch: int = BATCH) -> Iterator[Prediction]:
        """Classify images one batch at a time: each is decoded once.

        Args:
            images: image files, PIL images, or pixels (H, W, 3) uint8.
            batch: images at a time; a file with a fixed batch keeps to its own.

        Raises:
            UsageError: a batch below 1, or an object that is no image.
            BadInputError: an image that can't be read, or has a size that the model doesn't take.
            CheckFailedError: logits that are not finite; the image is named.
        """
        return self._stream(images, batch, None)

    def _stream(self, images: Iterable[Picture], batch: int, faults: _Faults | None) -> Iterator[Prediction]:
        """See `stream`; with `faults`, bad images are recorded there, and nothing is classified after the first."""
        if batch < 1:
            raise UsageError(f"The batch must be at least 1, not {batch}.")
        waiting, size = iter(images), self.batch_size(batch)
        with ThreadPoolExecutor(min(4, usable_cores())) as pool:
            while group := list(itertools.islice(waiting, size)):
                rows = list(pool.map(lambda image: self._pixels(image, faults), group))
                kept = [(image, row) for image, row in zip(group, rows, strict=True) if row is not None]
                if kept and not (faults and faults.any):
                    pixels = np.stack([row for _, row in kept])
                    yield from self._predictions([_path_of(image) for image, _ in kept], self.logits(pixels))

    def _pixels(self, image: Picture, faults: _Faults | None) -> PixelArray | None:
        """Decode an image into pixels; None where it can't be classified, which `faults` records."""
        try:
            decoded = decode(Path(image)) if isinstance(image, str | os.PathLike) else of_memory(image)
        except BadInputError as error:
            if faults is None:
                raise
            faults.messages[_path_of(image)] = error.message
            return None
        size = decoded.height, decoded.width
        if faults is None:
            self.description.input.require_sizes({_path_of(image): size})
            return self.description.input.pixels(decoded)
        faults.levels.look(decoded)
        if not self.description.input.takes(size):
            faults.sizes[_path_of(image)] = size
            return None
        return self.description.input.pixels(decoded)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (n, H, W, 3) uint8, as the description's `input` makes them → scores (n, classes).

        They are run in batches of the fixed size, else all at once.
        """
        size = self.fixed_batch or len(pixels)
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate([self.infer(self.description.input.network(part)) for part in parts])

    def infer(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input of n images, at most the model's batch size → scores (n, classes)."""
        return self.runner.infer(self._filled(inputs))[: len(inputs)]

    def _filled(self, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """Pad a short batch to the size that the runner takes, with copies of its last image."""
        missing = self.batch_size(len(inputs)) - len(inputs)
        return np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)]) if missing > 0 else inputs

    def _predictions(self, paths: Sequence[Path], logits: NDArray[np.float32]) -> list[Prediction]:
        """Scores (n, classes) → predictions; raises CheckFailedError where scores aren't finite."""
        bad = [str(path) for path, row in zip(paths, logits, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise CheckFailedError(
                f"{self.name}: the logits of {', '.join(bad)} are not finite.",
                "Numbers overflow on the way: take the float32 file, or an earlier checkpoint.",
            )
        rows = self.description.output.probabilities(logits).tolist()
        return [
            Prediction(path, self.description.classes[top], row[top], tuple(row))
            for path, top, row in zip(paths, logits.argmax(1).tolist(), rows, strict=True)
        ]


def _path_of(image: object) -> Path:
    return Path(image) if isinstance(image, str | os.PathLike) else Path()


def _unreadable(messages: Sequence[str], count: int, hint: str) -> BadInputError:
    """One error for all images that can't be read."""
    listed = "\n  ".join(messages)
    return BadInputError(f"{len(messages)} of {count} images can't be read:\n  {listed}", hint)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (n, classes) → probabilities, in float64."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1), np.float64)


def require_readable(
    images: LabelledImages, progress: Progress = SILENT, takers: Sequence[ModelInput] = ()
) -> tuple[str, ...]:
    """Decode every image to check it; returns notes on the set.

    Args:
        images: image files.
        progress: receives the number of images read.
        takers: inputs of the models, some of which need images of one size.

    Raises:
        BadInputError: some can't be decoded, or have another size; all of them are named.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    levels = GreyLevels()

    def look(index: int, image: Image.Image) -> None:
        sizes[images.paths[index]] = image.height, image.width
        levels.look(image)

    bad = folders.unreadable(images, progress, look)
    if bad:
        raise _unreadable(list(bad.values()), len(images), "Mend them or leave them out; none was classified.")
    for taker in takers:
        taker.require_sizes(dict(sorted(sizes.items())))
    parents = {path.parent for path in images.paths}
    own = images.paths[0].parent if len(parents) == 1 else f"{len(parents)} folders"
    return tuple(levels.notes(str(own if images.root == Path() else images.root)))
