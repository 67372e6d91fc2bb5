"""A model that is ready to classify images, and what it makes of them. Knows nothing of files of models."""

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
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import folders, image_list
from hemf_export.images.folders import LabelledImages
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.images.images import PixelArray, Preprocess, decode, of_memory
from hemf_export.images.model_input import ModelInput
from hemf_export.models.description import Description, Precision
from hemf_export.models.runners import Runner

BATCH = 8
Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What a model makes of an image.

    Args:
        path: the image; empty for one that came from memory.
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
class _Faults:
    """What is wrong with some of many images, so that all of them can be named.

    Args:
        messages: of images that can't be decoded.
        sizes: height and width of images that the file doesn't take.
        levels: grey levels of all.
    """

    messages: dict[Path, str] = field(default_factory=dict)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    levels: GreyLevels = field(default_factory=GreyLevels)

    @property
    def any(self) -> bool:
        """Whether an image can't be classified."""
        return bool(self.messages or self.sizes)


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to classify.

    Args:
        description: of the model: its classes in the order of the scores, and how images become its input.
        runner: input to scores.
        emulated: whether float16 is rounded here as a GPU would, which a CPU by itself doesn't.
        fixed_batch: the only batch size that the runner takes; None for any.
        filled: images that are wanted → images that have to be given, as the runner takes no batch of fewer.
        notes: what a user should know about how the file was read.
    """

    description: Description
    runner: Runner
    emulated: bool = False
    fixed_batch: int | None = None
    filled: Callable[[int], int] = lambda count: count
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What computes the scores and the file, for reports."""
        return self.runner.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.description.classes

    @property
    def preprocess(self) -> Preprocess:
        """How images become the network's input."""
        return self.description.preprocess

    @property
    def precision(self) -> Precision:
        """The precision of the file; a checkpoint's is fp32."""
        return self.description.precision

    @property
    def input(self) -> ModelInput:
        """What the runner takes of an image."""
        return self.description.input

    @property
    def output(self) -> ModelOutput:
        """What the runner's scores are."""
        return self.description.output

    def batch_size(self, wanted: int) -> int:
        """How many images go through at a time where `wanted` are asked for."""
        return self.fixed_batch or self.filled(wanted)

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it, in plain types."""
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
            paths: image files, and folders whose images are taken, at any depth and sorted.
            batch: images at a time; a file with a fixed batch keeps to its own.
            progress: receives how many images are through, and what is odd about them.

        Returns:
            One prediction an image, in their order.

        Raises:
            BadInputError: images that are missing, don't decode or are of a size that the file doesn't take, all of
                them named.
            CheckFailedError: logits that are not finite; the image is named.
        """
        # A single path is a sequence too, of letters.
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
        self.input.require_sizes(dict(sorted(faults.sizes.items())))
        if files:
            parents = {path.parent for path in files}
            for odd in faults.levels.notes(str(files[0].parent) if len(parents) == 1 else f"{len(parents)} folders"):
                progress.note(odd)
        return predictions

    def stream(self, images: Iterable[Picture], batch: int = BATCH) -> Iterator[Prediction]:
        """Classify images as they come: decoded once, one batch of them held at a time.

        Args:
            images: image files, PIL images, or pixels (H, W, 3) uint8.
            batch: images at a time; a file with a fixed batch keeps to its own.

        Raises:
            UsageError: a batch below 1, or something that is no image.
            BadInputError: an image that can't be read, or is of a size that the file doesn't take.
            CheckFailedError: logits that are not finite; the image is named.
        """
        return self._stream(images, batch, None)

    def _stream(self, images: Iterable[Picture], batch: int, faults: _Faults | None) -> Iterator[Prediction]:
        """See `stream`; with `faults`, images that can't be classified are noted there, and nothing is from then on."""
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
        """Pixels of an image; None where it can't be classified and `faults` notes why."""
        try:
            decoded = decode(Path(image)) if isinstance(image, str | os.PathLike) else of_memory(image)
        except BadInputError as error:
            if faults is None:
                raise
            faults.messages[_path_of(image)] = error.message
            return None
        size = decoded.height, decoded.width
        if faults is None:
            self.input.require_sizes({_path_of(image): size})
            return self.input.pixels(decoded)
        faults.levels.look(decoded)
        if not self.input.takes(size):
            faults.sizes[_path_of(image)] = size
            return None
        return self.input.pixels(decoded)

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
        missing = self.batch_size(len(inputs)) - len(inputs)
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


def _path_of(image: object) -> Path:
    return Path(image) if isinstance(image, str | os.PathLike) else Path()


def _unreadable(messages: Sequence[str], count: int, hint: str) -> BadInputError:
    """All images that can't be read, in one error."""
    listed = "\n  ".join(messages)
    return BadInputError(f"{len(messages)} of {count} images can't be read:\n  {listed}", hint)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (n, classes) → probabilities, in float64."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1), np.float64)


def require_readable(
    images: LabelledImages, progress: Progress = SILENT, takers: Sequence[ModelInput] = ()
) -> tuple[str, ...]:
    """Decode every image; notes of what is odd about them all.

    Args:
        images: files.
        progress: receives how many are read.
        takers: what takes them: some files want images of one size.

    Raises:
        BadInputError: some can't be decoded, or are of another size; all of them are named.
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
