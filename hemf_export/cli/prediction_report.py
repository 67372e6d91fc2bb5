"""Print predictions, for `predict` and `triton-client`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hemf_export
from hemf_export.cli import console
from hemf_export.metrics.percentage import percentage


def show(predictions: hemf_export.Predictions, images: Sequence[Path], *, top: int, as_json: bool) -> None:
    """Print the notes, and JSON or a table with the share that is correct where folders tell.

    Args:
        predictions: the classes of the images.
        images: files and folders that were named.
        top: classes of an image that are shown.
        as_json: print JSON, with all classes.
    """
    for note in predictions.notes:
        console.warn(note)
    if as_json:
        console.print_json(predictions.to_dict())
        return
    # Where one folder was named, the names of its images below it tell enough.
    root = images[0] if len(images) == 1 and images[0].is_dir() else None
    rows = [
        _row(prediction, predictions.classes, top, true, root)
        for prediction, true in zip(predictions, predictions.true, strict=True)
    ]
    count = f"{len(rows)} image{'s' * (len(rows) != 1)}" + (f" of {console.printable(root)}" if root else "")
    columns = ("image", "class", "probability", "next likely")[: len(rows[0])]
    title = f"{console.printable(predictions.source)} ({predictions.precision}): {count}"
    console.table(title, columns, rows, words=(0, 1, 3))
    if shares := predictions.shares:
        right = [(console.printable(share.folder), _share(share.right, share.images)) for share in shares]
        wrong = any(share.right < share.images for share in shares)
        console.facts("\nCorrect, by the folders' names" + (" (✗: not)" if wrong else ""), right)


def _row(
    prediction: hemf_export.Prediction, classes: tuple[str, ...], top: int, true: str | None, root: Path | None
) -> tuple[str, ...]:
    """Return image, class (marked if the folder's name differs), its probability, and the next likely with `top`."""
    ranked = sorted(zip(prediction.probabilities, classes, strict=True), key=lambda item: -item[0])
    following = "  ".join(f"{name} {_percent(probability)}" for probability, name in ranked[1:top])
    path = prediction.path if root is None else prediction.path.relative_to(root)
    wrong = true not in (None, prediction.label)
    cells = console.printable(path), prediction.label + " ✗" * wrong, _percent(prediction.probability)
    return (*cells, following) if following else cells


def _share(right: int, images: int) -> str:
    return f"{right} of {images}, {percentage(right / images, images)}"


def _percent(probability: float) -> str:
    """Format a probability, never as 0 or 100 %, which a softmax doesn't reach."""
    if probability < 0.0005:
        return "<0.1%"
    return ">99.9%" if probability > 0.9995 else f"{probability:.1%}"
