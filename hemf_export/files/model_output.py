"""A model's output: logits or probabilities, one for each class, or a single one for two classes.

The counterpart of `images.model_input`. A runner's raw output becomes scores, (images, classes) with at least two
classes, in one place, right behind the runner. All other code works on scores, whose argmax is the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hemf_export.files.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

OutputType = Literal["logits", "probabilities", "logit", "probability"]

_LEAST = float(np.finfo(np.float32).tiny)  # stands for a probability of zero in a logarithm


@dataclass(frozen=True)
class ModelOutput:
    """Meaning of a model's output.

    Args:
        kind: `logits` or `probabilities`, one for each class; `logit` or `probability`, a single number that stands
            for the second of two classes where it is above 0 or 0.5.

    Raises:
        ValueError: no such kind.
    """

    kind: OutputType = "logits"

    def __post_init__(self) -> None:
        if self.kind not in get_args(OutputType):
            raise ValueError(f"output_type is {self.kind!r}")

    @property
    def single(self) -> bool:
        """Whether a single number decides between two classes."""
        return self.kind in ("logit", "probability")

    @property
    def of_probabilities(self) -> bool:
        """Whether scores are probabilities rather than logits."""
        return self.kind in ("probabilities", "probability")

    @property
    def noun(self) -> str:
        """A score in words: "logit" or "probability"."""
        return "probability" if self.of_probabilities else "logit"

    @property
    def plural(self) -> str:
        """The output of one image in words, such as "logits" or "a single logit"."""
        return f"a single {self.kind}" if self.single else self.kind

    @property
    def border(self) -> float:
        """Decision threshold of a single output: above it, the class is the second."""
        return 0.5 if self.of_probabilities else 0.0

    def text(self, classes: Sequence[str]) -> str:
        """Describe the output of a model with these classes, in words."""
        if not self.single:
            return f"{self.kind}, one for each class"
        return f"a single {self.kind}: up to {self.border:g} {classes[0]}, beyond {classes[1]}"

    def width(self, classes: int) -> int:
        """Numbers in the output of one image, for so many classes."""
        return 1 if self.single else classes

    def scores(self, raw: NDArray[Any], images: int) -> NDArray[np.float32]:
        """Convert a runner's raw output, with any axes of size 1, into scores (images, classes).

        A single logit z becomes [0, z], a single probability p becomes [1 - p, p]: differences and the larger of the
        two say what the single number says.

        Raises:
            BadInputError: not one row for each of `images`.
        """
        values = np.asarray(raw)
        if values.size % images or values.size == 0 or (images > 1 and len(values) != images):
            raise BadInputError(
                f"The model gives {values.shape} numbers for {images} images, not one row for each.",
                "Its batch may be fixed: export it with any batch, or with the one that it takes.",
            )
        rows = values.reshape(images, -1).astype(np.float32, copy=False)
        if not self.single:
            return rows
        return np.concatenate([1 - rows if self.of_probabilities else np.zeros_like(rows), rows], axis=1)

    def tensor_scores(self, raw: Tensor) -> Tensor:
        """Convert raw output (images, …) into float32 scores (images, classes), for a tensor on its own device."""
        import torch

        rows = raw.reshape(len(raw), -1).to(torch.float32)
        if not self.single:
            return rows
        return torch.cat([1 - rows if self.of_probabilities else torch.zeros_like(rows), rows], dim=1)

    def probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → float64 probabilities: the scores themselves, or the softmax of logits."""
        wide = scores.astype(np.float64)
        return wide if self.of_probabilities else np.asarray(special.softmax(wide, axis=1), np.float64)

    def logits(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → float64 logits: the scores themselves, or the logarithms of probabilities."""
        wide = scores.astype(np.float64)
        return np.log(np.maximum(wide, _LEAST)) if self.of_probabilities else wide

    def log_probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → float64 logarithms of probabilities that sum to 1."""
        return np.asarray(special.log_softmax(self.logits(scores), axis=1), np.float64)


LOGITS = ModelOutput()
