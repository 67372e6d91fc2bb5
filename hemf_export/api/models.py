"""Models that classify images: a checkpoint, an ONNX file, an engine, or a model on a Triton server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from hemf_export.api.results import PathLike, Shown, names_of
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL import Image

    from hemf_export.images.image_list import FolderShare, ImageList
    from hemf_export.images.images import Preprocess
    from hemf_export.models.description import Description
    from hemf_export.models.model_file import ModelFile
    from hemf_export.models.predictor import Prediction, Predictor

    Picture = PathLike | Image.Image | NDArray[np.uint8]


_SHOWN = 5  # names in a note
_LISTED = 20  # predictions shown in a notebook


@dataclass(frozen=True)
class Predictions(Shown, Sequence["Prediction"]):
    """Sequence of a model's predictions, in the order of the images.

    Args:
        source: the model's file, or its name on a server.
        classes: class names, in the order of each prediction's probabilities.
        precision: precision of the model.
        notes: remarks on how the model was read, and on files in the folders that aren't images.
    """

    source: str
    classes: tuple[str, ...]
    precision: str
    notes: tuple[str, ...] = ()
    _predictions: tuple[Prediction, ...] = field(kw_only=True, repr=False)
    _images: ImageList = field(kw_only=True, repr=False)

    def __len__(self) -> int:
        return len(self._predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        return self._predictions[index]

    @property
    def true(self) -> tuple[str | None, ...]:
        """True class of each image by the name of a folder above it, up to the given one; None without one."""
        from hemf_export.files import names

        folders = self._images.class_folders(self.classes)
        places = [None if folder is None else names.place_of(folder.name, self.classes) for folder in folders]
        return tuple(None if place is None else self.classes[place] for place in places)

    @property
    def shares(self) -> tuple[FolderShare, ...]:
        """Correct predictions for each folder with class folders: `folder`, `images`, `right`."""
        return self._images.shares(self.classes, [prediction.label for prediction in self])

    def to_dict(self) -> dict[str, Any]:
        """Convert the predictions to plain types."""
        values: dict[str, Any] = {
            "file": self.source,
            "classes": list(self.classes),
            "predictions": [
                {
                    "image": str(prediction.path),
                    "class": prediction.label,
                    "probability": prediction.probability,
                    "probabilities": dict(zip(self.classes, prediction.probabilities, strict=True)),
                }
                for prediction in self
            ],
        }
        if shares := self.shares:
            values["class_folders"] = [{**vars(share), "folder": str(share.folder)} for share in shares]
        return values

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        rows = {
            str(prediction.path) if prediction.path.name else f"image {number}": (
                f"{prediction.label} {prediction.probability:.1%}"
            )
            for number, prediction in enumerate(self[:_LISTED], 1)
        }
        return rows if len(self) <= _LISTED else {**rows, "more": f"{len(self) - _LISTED} images"}


@dataclass(frozen=True)
class Model(Shown):
    """Model that is ready to classify.

    Args:
        file: its file: path, kind, hash, manifest.
    """

    file: ModelFile
    _predictor: Predictor = field(repr=False)

    @property
    def path(self) -> Path:
        """Path of the model's file."""
        return self.file.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._predictor.description.classes

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing from an image to the network's input."""
        return self._predictor.description.preprocess

    @property
    def description(self) -> Description:
        """Description that the file carries."""
        return self.file.description

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file was read."""
        return self._predictor.notes

    @property
    def fixed_batch(self) -> int | None:
        """Only batch size that the file takes; None for a dynamic batch."""
        return self._predictor.fixed_batch

    def predict(
        self, images: Picture | Iterable[Picture], *, batch: int | None = None, progress: Progress = SILENT
    ) -> Predictions:
        """Classify images, each decoded once.

        Args:
            images: a path, a PIL image, an array (H, W, 3) uint8, or any iterable of these. A folder stands for all
                images below it, sorted.
            batch: images at a time; None for 8, or the file's own if that is fixed.
            progress: receives the number of images done, and remarks on odd images.

        Returns:
            One prediction per image, in their order; `path` is empty for images in memory.

        Raises:
            UsageError: a batch that the file doesn't take.
            BadInputError: images that don't decode, or of a size that the file doesn't take: all of them are named if
                all images are paths, else the first.
            CheckFailedError: logits that are not finite.

        Examples:
            >>> model = hemf_export.load("best.onnx")
            >>> [prediction.label for prediction in model.predict("data/test/dark")][:2]
            ['dark', 'dark']
        """
        paths = _paths(images)
        return _predictions(str(self.path), self._predictor, images if paths is None else paths, batch, progress)

    def stream(self, images: Picture | Iterable[Picture], *, batch: int | None = None) -> Iterator[Prediction]:
        """Classify a stream of images, one batch at a time; see `predict`. The first bad image raises an error."""
        return self._predictor.stream(_each(images), _batch(str(self.path), self._predictor, batch))

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model on pixels.

        Args:
            pixels: (n, H, W, 3) uint8, the result of `preprocess`.

        Returns:
            (n, classes): logits, or probabilities where the file gives those.

        Raises:
            UsageError: pixels of another shape or type, or none.
        """
        given, size = np.asarray(pixels), self._predictor.description.input
        if given.dtype != np.uint8 or given.shape[1:] != (size.height, size.width, 3) or not len(given):
            raise UsageError(
                f"{self.path} can't take pixels of shape {given.shape} and type {given.dtype}.",
                f"Give (n, {size.height}, {size.width}, 3), uint8, n at least 1.",
            )
        return self._predictor.logits(given)

    def to_dict(self) -> dict[str, object]:
        """Convert the description to plain types, as in reports."""
        return {"file": str(self.path), "sha256": self.file.sha256, **self._predictor.to_dict()}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            "file": str(self.path),
            "kind": self.file.kind,
            "precision": self._predictor.description.precision,
            "classes": ", ".join(self.classes),
            "input": f"{self.preprocess.size} px",
        }


def load(
    path: PathLike,
    *,
    classes: Sequence[str] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    factory: str | None = None,
    progress: Progress = SILENT,
) -> Model:
    """Load a model: a checkpoint, an ONNX file (both run on the CPU) or an engine (on its GPU).

    Args:
        path: the file.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint, such as "ema".
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        progress: receives the steps.

    Raises:
        BadInputError: no such file, a damaged one, or one that its manifest doesn't describe.
        MissingCapabilityError: an engine for another GPU or TensorRT than this machine has.

    Examples:
        >>> hemf_export.load("best.pt").classes
        ('bright', 'dark', 'striped')
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.models import graph_source
    from hemf_export.models.model_file import ModelFile

    reading = Reading(weights, image_size, factory)
    with progress.task(f"Reading {Path(path).name}"):
        file = graph_source.known_beside(ModelFile.open(Path(path), classes=names_of(classes), reading=reading))
        return Model(file, file.predictor())


def predict(
    model: PathLike, images: PathLike | Iterable[PathLike], *, batch: int | None = None,
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None,
    factory: str | None = None,
    progress: Progress = SILENT,
) -> Predictions:  # fmt: skip
    """Classify image files with a model file. `load` a model to classify more than once.

    Args:
        model: a checkpoint, an ONNX file or an engine.
        images: files, and folders, searched for images at any depth, sorted.
        batch: images at a time; None for 8, or the file's own if that is fixed.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint, such as "ema".
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        progress: receives the number of images done, and remarks on odd images.

    Raises:
        UsageError: a batch that the file doesn't take.
        BadInputError: the model's file, or images that can't be classified, all of them named.
        MissingCapabilityError: an engine for another GPU or TensorRT than this machine has.

    Examples:
        >>> predictions = hemf_export.predict("best.onnx", "data/test")
        >>> [share.images for share in predictions.shares]
        [12]
    """
    from hemf_export.images import image_list

    pictures = image_list.collect(_listed(images))  # before the model is read
    loaded = load(model, classes=classes, weights=weights, image_size=image_size, factory=factory, progress=progress)
    return _predictions(str(loaded.path), loaded._predictor, pictures, batch, progress)


def predict_served(
    url: str, images: PathLike | Iterable[PathLike], *, model: str | None = None, version: int | None = None,
    batch: int | None = None, timeout: float = 60.0, progress: Progress = SILENT,
) -> Predictions:  # fmt: skip
    """Classify image files with a model on a Triton server. They are preprocessed here, by the description in the
    model's configuration.

    Args:
        url: `http://HOST:PORT` or `grpc://HOST:PORT`.
        images: files, and folders, searched for images at any depth, sorted.
        model: name of the model; None for the only one.
        version: version of the model; None for the highest that is ready.
        batch: images per request; None for 8, or the model's own if that is fixed.
        timeout: time limit of a request in seconds.
        progress: receives the number of images done, and remarks on odd images.

    Raises:
        UsageError: another kind of URL, or a batch that the model doesn't take.
        BadInputError: images that can't be classified, all of them named.
        MissingCapabilityError: no server answers, or the model isn't ready.

    Examples:
        >>> predictions = hemf_export.predict_served("grpc://localhost:8001", "data/test")  # doctest: +SKIP
    """
    from hemf_export.images import image_list
    from hemf_export.triton import client

    pictures = image_list.collect(_listed(images))
    server = client.Server(url, timeout)
    try:
        with progress.task(f"Asking {server.url}"):
            served = client.load(server, model, version)
        return _predictions(served.name, served, pictures, batch, progress)
    finally:
        server.close()


def _predictions(
    source: str, predictor: Predictor, images: ImageList | Picture | Iterable[Picture], batch: int | None,
    progress: Progress,
) -> Predictions:  # fmt: skip
    from hemf_export.images.image_list import ImageList

    size = _batch(source, predictor, batch)
    if isinstance(images, ImageList):
        predictions, listed = predictor.predict(images.paths, size, progress), images
    else:
        predictions = list(predictor.stream(_each(images), size))
        listed = ImageList(tuple(prediction.path for prediction in predictions), (None,) * len(predictions))
    return Predictions(
        source, predictor.description.classes, predictor.description.precision,
        (*predictor.notes, *_passed_over(listed)),
        _predictions=tuple(predictions), _images=listed,
    )  # fmt: skip


def _passed_over(images: ImageList) -> list[str]:
    """Return a note on files in the folders that aren't images by their names."""
    from hemf_export.files.printable import printable

    paths = images.passed_over
    if not paths:
        return []
    shown = ", ".join(printable(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return [f"Passed over, as not images by their names: {shown}{more}."]


def _batch(source: str, predictor: Predictor, batch: int | None) -> int:
    from hemf_export.models.predictor import BATCH

    if batch is not None and predictor.fixed_batch not in (None, batch):
        raise UsageError(f"{source} has the fixed batch {predictor.fixed_batch}.", "Leave out `batch`.")
    if batch is not None and batch < 1:
        raise UsageError(f"The batch must be at least 1, not {batch}.")
    return BATCH if batch is None else batch


def _listed(images: PathLike | Iterable[PathLike]) -> list[PathLike]:
    """One path or several, as a list.

    Raises:
        UsageError: images from memory, which only a loaded model takes.
    """
    from PIL import Image

    if isinstance(images, str | os.PathLike):
        return [images]
    listed = [] if isinstance(images, Image.Image | np.ndarray) else list(images)
    if isinstance(images, Image.Image | np.ndarray) or not all(isinstance(each, str | os.PathLike) for each in listed):
        raise UsageError(
            "These images are no paths.", "Open the model with load(), whose predict() takes images from memory too."
        )
    return listed


def _paths(images: Picture | Iterable[Picture]) -> ImageList | None:
    """Return the files, if a path or a list of only paths is given; None for anything else."""
    from hemf_export.images import image_list

    named = [images] if isinstance(images, str | os.PathLike) else images
    if not isinstance(named, list | tuple) or not all(isinstance(each, str | os.PathLike) for each in named):
        return None
    return image_list.collect(named)


def _each(images: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """Yield single images, and the images below folders, one by one."""
    from PIL import Image

    from hemf_export.images import image_list

    single = isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    for image in cast("Iterable[Picture]", [images] if single else images):
        if isinstance(image, str | os.PathLike):
            yield from image_list.collect([image]).paths
        else:
            yield image
