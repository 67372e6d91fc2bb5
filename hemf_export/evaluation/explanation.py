"""Explain a checkpoint's predictions with heatmaps: Grad-CAM++ of the last feature map, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.evaluation import heatmaps
from hemf_export.evaluation.heatmaps import HeatMap, grad_cam_plus_plus
from hemf_export.files import artifact_folder, artifacts, file_names, names
from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError, did_you_mean
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import folders, image_list
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import PixelArray
from hemf_export.models import discover, file_kinds, predictor
from hemf_export.models.model_file import ModelFile
from hemf_export.models.predictor import softmax
from hemf_export.networks.features import feature_layer
from hemf_export.networks.network import memory_format
from hemf_export.train import figures

MARK = "explanation.json"  # file that marks the folder of an explanation
FORMAT = 1  # of the JSON
BATCH = 8
_LONGEST_STEM = 200  # bytes: file systems take 255


@dataclass(frozen=True)
class Request:
    """Request for an explanation.

    Args:
        file: a checkpoint, as only there gradients flow.
        images: files, and folders whose images are used at any depth.
        class_name: the class to explain; None for each image's predicted class.
        classes: class names, for a checkpoint that has none.
        batch: images at a time.
        reading: how the checkpoint is read.
        feature_layer: the module whose output the maps are of; None for the network's last feature map.

    Raises:
        UsageError: the file is an ONNX file or an engine, or the batch is below 1.
    """

    file: Path
    images: tuple[Path, ...]
    class_name: str | None = None
    classes: tuple[str, ...] | None = None
    batch: int = BATCH
    reading: Reading = PLAIN
    feature_layer: str | None = None

    def __post_init__(self) -> None:
        kind = ModelFile.open(self.file).kind if self.file.is_file() else file_kinds.named(self.file)
        if kind in ("onnx", "engine"):
            raise UsageError(
                f"{self.file} can't be explained: heatmaps need gradients, which only a checkpoint gives.",
                f"Name the checkpoint that it was made from{_its_checkpoint(self.file)}.",
            )
        if not self.images:
            raise UsageError("No image was named.", "`explain(CKPT, IMAGES)`")
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")


@dataclass(frozen=True)
class Explained:
    """One image and its heatmap.

    Args:
        path: path of the image.
        true: the class that a folder above the image is named after; None without one.
        label: the class that the map explains.
        probability: probability of `label`.
        predicted: the most likely class.
        predicted_probability: probability of `predicted`.
        pixels: (size, size, 3), the network's input.
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
        """Class of the map with its probability, then the predicted and the true class where they differ."""
        parts = [f"{self.label} {self.probability:.1%}"]
        if self.label != self.predicted:
            parts.append(f"predicted {self.predicted} {self.predicted_probability:.1%}")
        if self.true not in (None, self.predicted):
            parts.append(f"true {self.true}")
        return ", ".join(parts)

    def to_dict(self, picture: str) -> dict[str, Any]:
        """Convert to plain types, for JSON; `picture` is the name of the image's PNG."""
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
    """Name the default folder: beside the checkpoint and named after it."""
    return file.with_name(f"{file_kinds.stem(file)}.explained")


def explain(request: Request, folder: Path, *, force: bool, progress: Progress = SILENT) -> dict[str, Any]:
    """Write a picture per image into a folder, contact sheets of several, and `explanation.json`; return its content.

    Args:
        request: checkpoint and images.
        folder: see `files.artifact_folder.check`.
        force: replace earlier explanations.
        progress: receives the number of images done.

    Raises:
        BadInputError: the checkpoint, an image or the folder can't be used.
        UsageError: the checkpoint has no such class.
        CheckFailedError: logits or maps are not finite.
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
    layer = request.feature_layer
    above = pictures.class_folders(saved.classes)
    # An image that is named itself may lie in a class folder too.
    places = [
        names.place_of((parent or path.parent).name, saved.classes)
        for path, parent in zip(pictures.paths, above, strict=True)
    ]
    true = [None if place is None else saved.classes[place] for place in places]
    entries: list[dict[str, Any]] = []
    cells = (0, 0)
    with (
        artifact_folder.whole(folder, MARK, force=force) as place,
        progress.task("Explaining", len(images), "images") as task,
    ):
        page: list[HeatMap] = []
        sheets: list[str] = []
        for one, name in zip(_explained(saved, images, true, request), _names(pictures.paths), strict=True):
            heat = HeatMap(one.pixels, one.heat, one.path.name, one.caption)
            artifacts.write_bytes(place / name, figures.encode(heatmaps.panel(heat), "png"))
            entries.append(one.to_dict(name))
            cells = one.cells
            page.append(heat)
            if len(images) > 1 and (len(page) == heatmaps.SHEET_SIZE or len(entries) == len(images)):
                sheets.append(f"sheet-{len(sheets) + 1}.png")
                artifacts.write_bytes(place / sheets[-1], figures.encode(heatmaps.sheet(page), "png"))
                page = []
            task.advance()
        report = {
            "explanation": FORMAT,
            "method": "Grad-CAM++ of the last feature map" if layer is None else f"Grad-CAM++ of the output of {layer}",
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
    model = saved.model().requires_grad_(False)
    layer = feature_layer(model, request.feature_layer)
    class_index = None if request.class_name is None else names.place_of(request.class_name, saved.classes)
    done = 0
    for pixels in folders.batches(images, saved.preprocess, request.batch):
        paths = images.paths[done : done + len(pixels)]
        batch = torch.from_numpy(saved.preprocess.normalize(pixels)).to(memory_format=memory_format(model))
        cam = grad_cam_plus_plus(model, layer, batch, None if class_index is None else [class_index] * len(pixels))
        pairs = zip(paths, cam.logits, cam.maps, strict=True)
        bad = [str(path) for path, *both in pairs if not all(torch.isfinite(each).all() for each in both)]
        if bad:
            raise CheckFailedError(
                f"{request.file}: the logits or the maps of {', '.join(bad)} are not finite.",
                "Numbers overflow on the way: take an earlier checkpoint.",
            )
        shares = softmax(cam.logits.numpy())
        for index, path in enumerate(paths):
            label, top = int(cam.classes[index]), int(shares[index].argmax())
            yield Explained(
                path, true[done + index], saved.classes[label], float(shares[index, label]), saved.classes[top],
                float(shares[index, top]), pixels[index], cam.maps[index].numpy(), cam.cells,
            )  # fmt: skip
        done += len(pixels)


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """Name each picture after its image, numbered where the name is in use already."""
    used: set[str] = set()
    for path in paths:
        stem = file_names.visible(path.stem).encode()[:_LONGEST_STEM].decode(errors="ignore")
        name, number = f"{stem}.png", 1
        while name.lower() in used or name.lower().startswith("sheet-"):
            number += 1
            name = f"{number}-{stem}.png"
        used.add(name.lower())
        yield name


def _its_checkpoint(file: Path) -> str:
    """Name the checkpoint that a file was made from, in brackets, if it lies beside the file; else return nothing."""
    try:
        manifest = artifacts.read_manifest(file) if file.is_file() else None
        origin = discover.checkpoint_of(file.parent, str((manifest or {}).get("checkpoint_sha256")))
    except (BadInputError, OSError):
        origin = None
    return f" ({origin.path})" if origin else ""
