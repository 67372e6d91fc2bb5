"""What `predict` and `triton-client` print of the images that were classified: a table, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemf_export.cli import console
from hemf_export.files import names
from hemf_export.images.image_list import ImageList
from hemf_export.models.predictor import Prediction, Predictor

_SHOWN = 5  # names in a warning


def to_dict(source: str, model: Predictor, found: Sequence[Prediction], pictures: ImageList) -> dict[str, Any]:
    """Plain types, for JSON.

    Args:
        source: the file, or where the model is served.
        model: that classified.
        found: one prediction an image.
        pictures: the images.
    """
    values: dict[str, Any] = {
        "file": source,
        "classes": list(model.classes),
        "predictions": [
            {
                "image": str(prediction.path),
                "class": prediction.label,
                "probability": prediction.probability,
                "probabilities": dict(zip(model.classes, prediction.probabilities, strict=True)),
            }
            for prediction in found
        ],
    }
    if shares := pictures.shares(model.classes, [prediction.label for prediction in found]):
        values["class_folders"] = [{**vars(share), "folder": str(share.folder)} for share in shares]
    return values


def show(
    source: str,
    model: Predictor,
    found: Sequence[Prediction],
    pictures: ImageList,
    *,
    top: int,
    root: Path | None,
) -> None:
    """Print a table, and the share that is right where folders tell.

    Args:
        source: the file, or where the model is served.
        model: that classified.
        found: one prediction an image.
        pictures: the images.
        top: classes of an image that are shown.
        root: the one folder that was named: of its images, the names below it tell enough.
    """
    rows = [
        _row(prediction, model.classes, top, folder, root)
        for prediction, folder in zip(found, pictures.class_folders(model.classes), strict=True)
    ]
    count = f"{len(found)} image{'s' * (len(found) != 1)}" + (f" of {console.printable(root)}" if root else "")
    columns = ("image", "class", "probability", "next likely")[: len(rows[0])]
    console.table(f"{console.printable(source)} ({model.precision}): {count}", columns, rows, words=(0, 1, 3))
    if shares := pictures.shares(model.classes, [prediction.label for prediction in found]):
        right = [(console.printable(share.folder), _share(share.right, share.images)) for share in shares]
        console.facts("\nRight by their folders' names (✗: the others)", right)


def passed_over(pictures: ImageList) -> list[str]:
    """A note of what lies in the folders and is no image by its name."""
    paths = pictures.passed_over
    if not paths:
        return []
    shown = ", ".join(console.printable(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return [f"Passed over, as not images by their names: {shown}{more}."]


def _row(
    prediction: Prediction, classes: tuple[str, ...], top: int, folder: Path | None, root: Path | None
) -> tuple[str, ...]:
    """Image, class (marked where `folder` is called otherwise), its probability, and the next likely if `top` asks."""
    ranked = sorted(zip(prediction.probabilities, classes, strict=True), key=lambda item: -item[0])
    following = "  ".join(f"{name} {_percent(probability)}" for probability, name in ranked[1:top])
    path = prediction.path if root is None else prediction.path.relative_to(root)
    wrong = folder is not None and not names.same([folder.name], [prediction.label])
    cells = console.printable(path), prediction.label + " ✗" * wrong, _percent(prediction.probability)
    return (*cells, following) if following else cells


def _share(right: int, images: int) -> str:
    return f"{right} of {images}, {right / images:.2%}"


def _percent(probability: float) -> str:
    """Never 0 or 100, which no softmax says."""
    if probability < 0.00005:
        return "<0.01%"
    return ">99.99%" if probability > 0.99995 else f"{probability:.2%}"
