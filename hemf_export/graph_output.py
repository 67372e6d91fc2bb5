"""What a classifier of unknown origin gives of an image: told by its operators, and by running it on a few images.

Ends in a softmax, a sigmoid or anything else that stays between 0 and 1: probabilities. So are rows that sum to 1
wherever they come from, as of a softmax that is written out, or of several networks averaged. All else are logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from hemf.errors import BadInputError
from hemf.model_output import ModelOutput
from hemf_export import value_bounds

Given = Literal["logits", "probabilities"]
IMAGES = 4  # of noise: rows of logits that sum to 1 in all of them are no accident
_SEED = 20250
_ROUNDING = 1e-5  # what float32 and float16 lose of a value, and of a sum of a thousand of them
_SUM_ROUNDING = 2e-3
FLOATS = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_OTHER_FLOATS = onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16


@dataclass(frozen=True)
class Recognized:
    """What was found out of a graph's output.

    Args:
        output: what its numbers are.
        classes: how many it tells apart.
        sizes: of the output as it comes, None for the batch.
        notes: what a user should know of it.
    """

    output: ModelOutput
    classes: int
    sizes: tuple[int | None, ...]
    notes: tuple[str, ...] = ()


def recognize(
    model: onnx.ModelProto,
    image: tuple[int, ...],
    batch: int | None,
    infer: Callable[[NDArray[np.float32]], NDArray[np.generic]],
    *,
    name: str,
    given: Given | None = None,
) -> Recognized:
    """Look at the graph, and run it on seeded noise.

    Args:
        model: with one output.
        image: shape of an image as the graph takes it, (3, S, S).
        batch: that the graph takes alone; None for any.
        infer: images (n, 3, S, S) → the output as it comes.
        name: of the file, for messages.
        given: what the output's numbers are, where a user says it.

    Raises:
        BadInputError: an output that isn't one row of numbers an image, or that may be either.
    """
    require_floats(model.graph.output[0], name)
    rows, sizes = _run(image, batch, infer, name)
    classes = rows.shape[1]
    low, high = value_bounds.of_outputs(model)[0]
    bounded = low >= -_ROUNDING and high <= 1 + _ROUNDING
    if given is None and not bounded and _inside(rows) and not _sum_to_one(rows):
        raise BadInputError(
            f"{name} gives numbers between 0 and 1 for images of noise, and its operators don't tell whether they are "
            "probabilities or logits.",
            "Say which: hemf-export calibrate FILE --gives probabilities, or --gives logits.",
        )
    if given is None and rows.min() >= 0 and np.abs(rows.sum(1) - 100).max() < 100 * _SUM_ROUNDING:
        raise BadInputError(f"{name} gives percentages.", "Let it end before they are multiplied by 100.")
    bounded = bounded if given is None else given == "probabilities"
    if classes == 1:
        if bounded and (rows == 1).all():
            raise BadInputError(
                f"{name} gives 1 for every image: a softmax over a single output decides nothing.",
                "End it with a sigmoid, or with the number before it.",
            )
        output = ModelOutput("probability" if bounded else "logit")
        note = (
            f"It has a single output: it is taken for a {output.noun} that decides between two classes, the second "
            f"beyond {output.border:g}."
        )
        return Recognized(output, 2, sizes, (note,))
    if _sum_to_one(rows) and given != "logits":
        note = "It gives probabilities: they are taken as they are, and bounds are bounds of probabilities."
        return Recognized(ModelOutput("probabilities"), classes, sizes, (note,))
    if bounded:
        note = (
            "It gives numbers between 0 and 1 that don't sum to 1, as sigmoids do: each is taken for the probability "
            "of its class, and the largest for the class of the image."
        )
        return Recognized(ModelOutput("probabilities"), classes, sizes, (note,))
    return Recognized(ModelOutput("logits"), classes, sizes)


def require_floats(output: onnx.ValueInfoProto, name: str) -> None:
    """Refuse what can't be scores, as the index of the largest of them.

    Raises:
        BadInputError: the output isn't a tensor of floating-point numbers.
    """
    kind = output.type.tensor_type.elem_type if output.type.HasField("tensor_type") else 0
    if kind in _OTHER_FLOATS:
        shown = onnx.TensorProto.DataType.Name(kind).lower()
        raise BadInputError(
            f"{name}: its output {output.name} is {shown}, which TensorRT doesn't give.",
            "Let it end with a Cast to float32.",
        )
    if kind not in FLOATS:
        shown = onnx.TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
        raise BadInputError(
            f"{name}: its output {output.name} is {shown}, not a number for each class.",
            "Let it end where it gives scores, before the classes are made of them.",
        )


def is_row(sizes: tuple[int | None, ...], width: int, batch: int | None) -> bool:
    """Whether an output of these sizes, None for any, is one row of `width` numbers for each image of a batch."""
    own = sizes if batch == 1 else sizes[1:]  # the axis of a single image may be left out
    known = [size for size in own if size not in (None, 1)]
    fits = batch == 1 or (bool(sizes) and sizes[0] in (None, batch))
    return fits and known in ([], [width]) and (width == 1 or None in own or known == [width])


def _run(
    image: tuple[int, ...],
    batch: int | None,
    infer: Callable[[NDArray[np.float32]], NDArray[np.generic]],
    name: str,
) -> tuple[NDArray[np.float64], tuple[int | None, ...]]:
    """What the graph gives of some images of noise, a row each, and the sizes of its output."""
    generator = np.random.default_rng(_SEED)
    size = batch or IMAGES
    parts: list[NDArray[np.float64]] = []
    sizes: tuple[int | None, ...] = ()
    for _ in range(-(-IMAGES // size)):
        raw = np.asarray(infer(generator.standard_normal((size, *image), np.float32)))
        sizes = tuple(raw.shape) if size == 1 and raw.shape[:1] != (1,) else (None, *raw.shape[1:])
        if not raw.size or raw.size % size or not is_row(raw.shape, raw.size // size, size):
            raise BadInputError(
                f"{name} gives numbers of the shape {tuple(raw.shape)} for {size} image{'s' * (size > 1)}; expected "
                f"one row an image, ({size}, classes).",
                "A classifier of whole images is needed; heat maps and several heads are none.",
            )
        parts.append(raw.reshape(size, -1).astype(np.float64))
    return np.concatenate(parts), sizes


def _inside(rows: NDArray[np.float64]) -> bool:
    return bool(rows.min() >= -_ROUNDING and rows.max() <= 1 + _ROUNDING)


def _sum_to_one(rows: NDArray[np.float64]) -> bool:
    return _inside(rows) and rows.shape[1] > 1 and bool(np.abs(rows.sum(1) - 1).max() < _SUM_ROUNDING)
