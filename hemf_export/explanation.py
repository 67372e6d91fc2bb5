"""Heat maps of images, by a checkpoint: Grad-CAM++ of the last fused feature map, and the folder that they go to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemf import artifact_folder, artifacts, checkpoint, file_names, folders, names
from hemf.checkpoint import Checkpoint
from hemf.errors import BadInputError, CheckFailedError, UsageError, did_you_mean
from hemf.folders import LabelledImages
from hemf.images import PixelArray
from hemf.reading import PLAIN, Reading
from hemf_export import discover, image_list, model_kind, predictor
from hemf_export.predictor import softmax
from train import figures, heatmap_figures
from train.grad_cam import grad_cam_plus_plus
from train.heatmap_figures import HeatMap

MARK = "explanation.json"  # by which its folders are known
FORMAT = 1  # of it
BATCH = 8
_LONGEST_STEM = 200  # bytes: file systems take 255

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to explain; see `hemf-export explain --help`.

    Args:
        file: a checkpoint: only there gradients flow.
        images: files, and folders whose images are taken at any depth.
        class_name: that the maps are of; None for each image's predicted class.
        classes: names, for a checkpoint that has none.
        batch: images at a time.
        reading: how the checkpoint is read.

    Raises:
        UsageError: an ONNX file or an engine.
    """

    file: Path
    images: tuple[Path, ...]
    class_name: str | None = None
    classes: tuple[str, ...] | None = None
    batch: int = BATCH
    reading: Reading = PLAIN

    def __post_init__(self) -> None:
        kind = model_kind.kind_of(self.file) if self.file.is_file() else model_kind.named(self.file)
        if kind in ("onnx", "engine"):
            raise UsageError(
                f"{self.file} can't be explained: heat maps need gradients, which only a checkpoint gives.",
                f"Name the checkpoint that it was made from{_its_checkpoint(self.file)}.",
            )
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")


@dataclass(frozen=True)
class Explained:
    """One image's map.

    Args:
        path: of the image.
        true: the class that a folder above it is named after; None where none is.
        label: the class that the map is of.
        probability: of that class.
        predicted: the most likely class.
        predicted_probability: of it.
        pixels: (size, size, 3), as the network saw them.
        heat: (size, size), 0 to 1.
        cells: height and width of the feature map.
    """

    path: Path
    true: str | None
    label: str
    probability: float
    predicted: str
    predicted_probability: float
    pixels: PixelArray
    heat: NDArray[np.float32]
    cells: tuple[int, int]

    @property
    def caption(self) -> str:
        """The class of the map with its probability, and what else a reader must know of the image's class."""
        parts = [f"{self.label} {self.probability:.1%}"]
        if self.label != self.predicted:
            parts.append(f"predicted {self.predicted} {self.predicted_probability:.1%}")
        if self.true not in (None, self.predicted):
            parts.append(f"true {self.true}")
        return ", ".join(parts)

    def to_dict(self, picture: str) -> dict[str, Any]:
        """Plain types; `picture` is the name of its file."""
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        return {
            "image": str(self.path),
            "picture": picture,
            "class": self.label,
            "probability": self.probability,
            "predicted": self.predicted,
            "predicted_probability": self.predicted_probability,
            "true": self.true,
            "empty": not self.heat.any(),
            "peak": {"row": int(row), "column": int(column)},
        }


def default_folder(file: Path) -> Path:
    """Beside the checkpoint, named after it."""
    return file.with_name(f"{model_kind.stem(file)}.explained")


def explain(
    request: Request, folder: Path, *, force: bool, progress: Progress = lambda phase, done, total: None
) -> dict[str, Any]:
    """Write a picture an image into a folder, sheets of several, and `explanation.json`; what stands in that.

    Args:
        request: what.
        folder: see `hemf.artifact_folder.check`.
        force: replace earlier explanations.
        progress: told the phase, how many images are through it, and of how many.

    Raises:
        BadInputError: the checkpoint, an image, or the folder.
        UsageError: no such class.
        CheckFailedError: logits that are not finite.
    """
    pictures = image_list.collect(request.images)
    saved = checkpoint.load(request.file, classes=request.classes, reading=request.reading)
    saved.check_finite()
    if request.class_name is not None and names.place_of(request.class_name, saved.classes) is None:
        raise UsageError(
            f"{request.file} has no class {request.class_name!r}.", did_you_mean(request.class_name, saved.classes)
        )
    images = LabelledImages(Path(), saved.classes, pictures.paths, None)
    odd = predictor.require_readable(images, progress)
    above = pictures.class_folders(saved.classes)
    # An image that is named itself may lie in a class folder too.
    places = [
        names.place_of((parent or path.parent).name, saved.classes)
        for path, parent in zip(pictures.paths, above, strict=True)
    ]
    true = [None if place is None else saved.classes[place] for place in places]
    entries: list[dict[str, Any]] = []
    cells = (0, 0)
    with artifact_folder.whole(folder, MARK, force=force) as place:
        page: list[HeatMap] = []
        sheets: list[str] = []
        progress("explaining", 0, len(images))
        for one, name in zip(_explained(saved, images, true, request), _names(pictures.paths), strict=True):
            heat = HeatMap(one.pixels, one.heat, one.path.name, one.caption)
            artifacts.write_bytes(place / name, figures.encode(heatmap_figures.panel(heat), "png"))
            entries.append(one.to_dict(name))
            cells = one.cells
            page.append(heat)
            if len(images) > 1 and (len(page) == heatmap_figures.SHEET_SIZE or len(entries) == len(images)):
                sheets.append(f"sheet-{len(sheets) + 1}.png")
                artifacts.write_bytes(place / sheets[-1], figures.encode(heatmap_figures.sheet(page), "png"))
                page = []
            progress("explaining", len(entries), len(images))
        report = {
            "explanation": FORMAT,
            "method": "Grad-CAM++ of the last fused feature map",
            "file": str(request.file),
            "checkpoint_sha256": saved.sha256,
            "classes": list(saved.classes),
            "size": saved.preprocess.size,
            "cells": list(cells),
            "sheets": sheets,
            "images": entries,
            "notes": [*saved.notes, *odd],
            "versions": artifacts.versions(),
        }
        artifacts.write_bytes(place / MARK, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    return {**report, "passed_over": [str(path) for path in pictures.passed_over]}


def _explained(
    saved: Checkpoint, images: LabelledImages, true: Sequence[str | None], request: Request
) -> Iterator[Explained]:
    model = saved.model()
    given = None if request.class_name is None else names.place_of(request.class_name, saved.classes)
    done = 0
    for pixels in folders.batches(images, saved.preprocess, request.batch):
        paths = images.paths[done : done + len(pixels)]
        batch = torch.from_numpy(saved.preprocess.normalize(pixels)).to(memory_format=torch.channels_last)
        found = grad_cam_plus_plus(model, batch, None if given is None else [given] * len(pixels))
        pairs = zip(paths, found.logits, found.maps, strict=True)
        bad = [str(path) for path, *both in pairs if not all(torch.isfinite(each).all() for each in both)]
        if bad:
            raise CheckFailedError(
                f"{request.file}: the logits or the maps of {', '.join(bad)} are not finite.",
                "Numbers overflow on the way: take an earlier checkpoint.",
            )
        shares = softmax(found.logits.numpy())
        for index, path in enumerate(paths):
            label, top = int(found.classes[index]), int(shares[index].argmax())
            yield Explained(
                path, true[done + index], saved.classes[label], float(shares[index, label]), saved.classes[top],
                float(shares[index, top]), pixels[index], found.maps[index].numpy(), found.cells,
            )  # fmt: skip
        done += len(pixels)


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each picture: the image's own, numbered where it has been taken already."""
    taken: set[str] = set()
    for path in paths:
        stem = file_names.visible(path.stem).encode()[:_LONGEST_STEM].decode(errors="ignore")
        name, number = f"{stem}.png", 1
        while name.lower() in taken or name.lower().startswith("sheet-"):
            number += 1
            name = f"{number}-{stem}.png"
        taken.add(name.lower())
        yield name


def _its_checkpoint(file: Path) -> str:
    """In brackets, where its manifest tells and it lies beside it."""
    try:
        manifest = artifacts.read_manifest(file) if file.is_file() else None
        found = discover.checkpoint_of(file.parent, str((manifest or {}).get("checkpoint_sha256")))
    except (BadInputError, OSError):
        found = None
    return f" ({found})" if found else ""
