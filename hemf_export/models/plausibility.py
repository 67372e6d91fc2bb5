"""Check that a model is better than guessing on labelled images.

One that isn't mostly gets other input than it was trained on, or its classes are in another order; comparing it with
itself in another format wouldn't show that.

The confusion matrix has all that is needed: the accuracy, the accuracy by chance (predictions assigned to images at
random, as in Cohen's kappa), and the accuracy with classes in another order.

- *No better than guessing*: a one-sided exact binomial test of the accuracy against chance isn't significant at 5 %,
  and kappa is below 0.2, which spares a fair model on few images. Where even a perfect model couldn't pass, such as
  with four images or one class, nothing is reported.
- *Another order of classes*: the assignment of outputs to classes with the highest accuracy. It is reported where a
  fifth of the images more are correct, more than by chance and more than in the present order, both significant at
  0.1 %, corrected for the number of assignments.
- *Other input*: channels in reverse order, or other ranges of values, tried on a part of the images, by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages
from hemf_export.images.model_input import ModelInput

IMAGES = 64  # for trying other input
_LEVEL, _STRICT_LEVEL = 0.05, 0.001
_LEAST_KAPPA = 0.2  # slight agreement ends there (Landis and Koch 1977)
_FAR_BETTER = 0.2  # of the images
_SHOWN = 12  # class names
_CAUSES = (
    "most likely it was trained on other input (another mean and std, channels in the order blue, green, red, values "
    "0 … 255) or with its classes in another order"
)

Infer = Callable[[NDArray[np.generic]], NDArray[np.float32]]
Counts = NDArray[np.int64]


def look(
    images: LabelledImages, scores: NDArray[np.floating], model_input: ModelInput, infer: Infer, batch: int = IMAGES
) -> tuple[str, ...]:
    """List doubts about a model, in words; empty where there are none, or without labels.

    Args:
        images: images, with or without labels.
        scores: the model's scores of them, (n, classes).
        model_input: how images become its input.
        infer: network input of a batch → scores, to try other input.
        batch: batch size of `infer`.
    """
    if images.labels is None or not np.isfinite(scores).all():
        return ()
    counts = confusion(images.labels, scores)
    remarks = doubts(counts, images.classes)
    if remarks and guessing(counts):
        some = images.spread(max(IMAGES, batch))
        whole = some.select(range(len(some) // batch * batch or len(some)))  # a fixed batch takes no others
        remarks = (*remarks, *_other_input(whole, model_input, infer, batch))
    return remarks


def doubts(counts: Counts, classes: Sequence[str]) -> tuple[str, ...]:
    """List the doubts that a confusion matrix raises, in words.

    Args:
        counts: images by true and predicted class.
        classes: class names.
    """
    remarks = []
    order = other_names(counts)
    if guessing(counts) and order is None:
        right, images, chance = int(np.trace(counts)), int(counts.sum()), _chance(counts)
        remarks.append(
            f"No better than guessing: right on {right} of {images} images ({right / images:.1%}, balanced "
            f"{_balanced(counts):.1%}; by guessing {chance:.1%}): {_CAUSES}."
        )
    if order is not None:
        named = [classes[index] for index in order]
        shown = ", ".join(named[:_SHOWN]) + " …" * (len(named) > _SHOWN)
        right = int(counts[order, np.arange(len(order))].sum())
        remarks.append(
            f"With its classes in another order it would be right on {right / counts.sum():.1%} of the images, not "
            f"{np.trace(counts) / counts.sum():.1%}: the outputs seem to be {shown}."
        )
    return tuple(remarks)


def confusion(labels: Sequence[int], scores: NDArray[np.floating]) -> Counts:
    """Count images by true and predicted class."""
    classes = scores.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (np.asarray(labels), scores.argmax(1)), 1)
    return matrix


def guessing(counts: Counts) -> bool:
    """Whether a model isn't shown to be better than guessing; False where too few images could show it."""
    images, right, chance = int(counts.sum()), int(np.trace(counts)), _chance(counts)
    if not images:
        return False
    shares = counts.sum(1) / images
    if images * math.log(float((shares**2).sum())) > math.log(_LEVEL):
        return False
    kappa = (right / images - chance) / (1 - chance) if chance < 1 else 0.0
    return bool(binom.sf(right - 1, images, chance) > _LEVEL and kappa < _LEAST_KAPPA)


def other_names(counts: Counts) -> NDArray[np.int64] | None:
    """Order of classes that fits the outputs far better than the present one; None where there is none."""
    images, outputs = int(counts.sum()), np.arange(len(counts))
    # Of equally good ones the closest to the present order: outputs that were never the largest tell nothing.
    truth, predicted = linear_sum_assignment(counts * (len(counts) + 1) + np.eye(len(counts)), maximize=True)
    order = np.empty(len(counts), np.int64)
    order[predicted] = truth
    gained = int(sum(counts[order[one], one] for one in outputs if order[one] != one))
    lost = int(sum(counts[one, one] for one in outputs if order[one] != one))
    if not images or gained - lost < _FAR_BETTER * images:
        return None
    right = int(counts[order, outputs].sum())
    chance = float((counts.sum(1)[order] * counts.sum(0)).sum()) / images**2
    allowed = math.log(_STRICT_LEVEL) - math.lgamma(len(counts) + 1)  # Bonferroni, over all orders
    better = binom.logsf(gained - 1, gained + lost, 0.5) < allowed and binom.logsf(right - 1, images, chance) < allowed
    return order if better else None


def _chance(counts: Counts) -> float:
    images = max(1, int(counts.sum()))
    return float((counts.sum(1) * counts.sum(0)).sum()) / images**2


def _balanced(counts: Counts) -> float:
    present = counts.sum(1) > 0
    return float((np.diag(counts)[present] / counts.sum(1)[present]).mean())


def _other_input(images: LabelledImages, model_input: ModelInput, infer: Infer, batch: int) -> list[str]:
    """Describe the other input that the model does far better on, if there is one; of several the best."""
    assert images.labels is not None
    labels = np.asarray(images.labels)
    right: dict[str, NDArray[np.bool_]] = {}
    start = 0
    for pixels in folders.batches(images, model_input, batch):
        for name, inputs in _inputs(pixels, model_input).items():
            predicted = infer(inputs).argmax(1)
            part = predicted == labels[start : start + len(pixels)]
            right[name] = np.concatenate([right[name], part]) if name in right else part
        start += len(pixels)
    own = right.pop("")
    best = max(right, key=lambda name: int(right[name].sum()))
    gained, lost = int((right[best] & ~own).sum()), int((own & ~right[best]).sum())
    few = max(1, len(right))
    if gained - lost < _FAR_BETTER * len(labels) or binom.sf(gained - 1, gained + lost, 0.5) > _STRICT_LEVEL / few:
        return []
    shares = f"{right[best].mean():.1%} of {len(labels)} of the images, not {own.mean():.1%}"
    return [f"With {best} it would be right on {shares}."]


def _inputs(pixels: NDArray[np.uint8], model_input: ModelInput) -> dict[str, NDArray[np.generic]]:
    """Present input, under an empty name, and other input that the model may have been trained on."""
    turned = np.ascontiguousarray(pixels[..., ::-1])
    variants = {"": model_input.network(pixels), "channels in the order blue, green, red": model_input.network(turned)}
    if model_input.raw:
        return variants
    values = model_input.arranged(pixels.astype(np.float32))
    return variants | {
        "values from 0 to 255 (mean 0, std 0.003921569)": values,
        "values from 0 to 255, channels in the order blue, green, red": model_input.arranged(turned.astype(np.float32)),
        "values from 0 to 1 (mean 0, std 1)": values / 255,
        "values from -1 to 1 (mean 0.5, std 0.5)": values / 127.5 - 1,
    }
