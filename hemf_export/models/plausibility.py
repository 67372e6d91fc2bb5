"""Is a model any better than guessing on labelled images? Where it isn't, it mostly gets other input than it was made
for, or its classes have other names: nothing that is proven of it later would show that.

What a model gave of images is all in their confusion matrix: how often it is right, how often it would be by guessing
(its answers dealt out to the images at random, as in Cohen's kappa), and how often under other names of its classes.

- *No better than guessing*: a one-sided exact binomial test of the images that are right against guessing isn't
  significant at 5 %, and kappa is below 0.2. The second spares a fair model on few images. Where even a model that is
  always right couldn't pass, with four images or of one class, nothing is said.
- *Other names*: the assignment of outputs to classes with the most images right. It is told where a fifth of the images
  more are right, more than by guessing and more than under the names that it has, both at 0.1 % after counting how many
  assignments there are.
- *Other input*: channels in the other order, or other ranges of values, on a part of the images; told by the same rule.
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

IMAGES = 64  # that other input is tried on
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
    images: LabelledImages, scores: NDArray[np.floating], taken: ModelInput, infer: Infer, batch: int = IMAGES
) -> tuple[str, ...]:
    """What is to be doubted of a model, in words; empty where nothing is, or nothing can be told.

    Args:
        images: with or without labels.
        scores: what the model gave of them, (n, classes).
        taken: how they become its input.
        infer: input of a batch → scores, to try other input.
        batch: images that `infer` takes at a time.
    """
    if images.labels is None or not np.isfinite(scores).all():
        return ()
    counts = confusion(images.labels, scores)
    found = doubts(counts, images.classes)
    if found and guessing(counts):
        some = images.spread(max(IMAGES, batch))
        whole = some.select(range(len(some) // batch * batch or len(some)))  # a fixed batch takes no others
        found = (*found, *_other_input(whole, taken, infer, batch))
    return found


def doubts(counts: Counts, classes: Sequence[str]) -> tuple[str, ...]:
    """What a confusion matrix gives to doubt, in words.

    Args:
        counts: by true and predicted class.
        classes: their names.
    """
    found = []
    order = other_names(counts)
    if guessing(counts) and order is None:
        right, images, chance = int(np.trace(counts)), int(counts.sum()), _chance(counts)
        found.append(
            f"No better than guessing: right on {right} of {images} images ({right / images:.1%}, balanced "
            f"{_balanced(counts):.1%}; by guessing {chance:.1%}): {_CAUSES}."
        )
    if order is not None:
        named = [classes[index] for index in order]
        shown = ", ".join(named[:_SHOWN]) + " …" * (len(named) > _SHOWN)
        right = int(counts[order, np.arange(len(order))].sum())
        found.append(
            f"With its classes in another order it would be right on {right / counts.sum():.1%} of the images, not "
            f"{np.trace(counts) / counts.sum():.1%}: the outputs seem to be {shown}."
        )
    return tuple(found)


def confusion(labels: Sequence[int], scores: NDArray[np.floating]) -> Counts:
    """Images by true and predicted class."""
    classes = scores.shape[1]
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (np.asarray(labels), scores.argmax(1)), 1)
    return found


def guessing(counts: Counts) -> bool:
    """Whether nothing shows that a model does better than guess; False where nothing could."""
    images, right, chance = int(counts.sum()), int(np.trace(counts)), _chance(counts)
    if not images:
        return False
    shares = counts.sum(1) / images
    if images * math.log(float((shares**2).sum())) > math.log(_LEVEL):
        return False
    kappa = (right / images - chance) / (1 - chance) if chance < 1 else 0.0
    return bool(binom.sf(right - 1, images, chance) > _LEVEL and kappa < _LEAST_KAPPA)


def other_names(counts: Counts) -> NDArray[np.int64] | None:
    """For each output the class that it seems to stand for, where that is another order by far better; else None."""
    images, outputs = int(counts.sum()), np.arange(len(counts))
    # Of the best ones the nearest: nothing is known of outputs that were never the largest.
    truth, predicted = linear_sum_assignment(counts * (len(counts) + 1) + np.eye(len(counts)), maximize=True)
    order = np.empty(len(counts), np.int64)
    order[predicted] = truth
    gained = int(sum(counts[order[one], one] for one in outputs if order[one] != one))
    lost = int(sum(counts[one, one] for one in outputs if order[one] != one))
    if not images or gained - lost < _FAR_BETTER * images:
        return None
    right = int(counts[order, outputs].sum())
    chance = float((counts.sum(1)[order] * counts.sum(0)).sum()) / images**2
    allowed = math.log(_STRICT_LEVEL) - math.lgamma(len(counts) + 1)  # so many orders could have been the best
    better = binom.logsf(gained - 1, gained + lost, 0.5) < allowed and binom.logsf(right - 1, images, chance) < allowed
    return order if better else None


def _chance(counts: Counts) -> float:
    images = max(1, int(counts.sum()))
    return float((counts.sum(1) * counts.sum(0)).sum()) / images**2


def _balanced(counts: Counts) -> float:
    present = counts.sum(1) > 0
    return float((np.diag(counts)[present] / counts.sum(1)[present]).mean())


def _other_input(images: LabelledImages, taken: ModelInput, infer: Infer, batch: int) -> list[str]:
    """The other input that the model does far better on, in words; of several the best."""
    assert images.labels is not None
    labels = np.asarray(images.labels)
    right: dict[str, NDArray[np.bool_]] = {}
    start = 0
    for pixels in folders.batches(images, taken, batch):
        for name, inputs in _inputs(pixels, taken).items():
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


def _inputs(pixels: NDArray[np.uint8], taken: ModelInput) -> dict[str, NDArray[np.generic]]:
    """What the model gets now, under an empty name, and what it may have been made for."""
    turned = np.ascontiguousarray(pixels[..., ::-1])
    found = {"": taken.network(pixels), "channels in the order blue, green, red": taken.network(turned)}
    if taken.raw:
        return found
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    return found | {
        "values from 0 to 255": values,
        "values from 0 to 255, channels in the order blue, green, red": np.ascontiguousarray(values[:, ::-1]),
        "values from 0 to 1 (mean 0, std 1)": values / 255,
        "values from -1 to 1 (mean 0.5, std 0.5)": values / 127.5 - 1,
    }
