"""What a file gives of an image: logits or probabilities, one for each class or a single one for two classes.

The counterpart of `images.model_input`. What a runner gives is turned into scores, (images, classes) with two
classes or more, once, where it comes out of the runner. Everything behind works on scores: the largest is the class.
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

_LEAST = float(np.finfo(np.float32).tiny)  # what a probability of zero counts as in a logarithm


@dataclass(frozen=True)
class ModelOutput:
    """What the numbers that a file gives of an image are.

    Args:
        kind: `logits` or `probabilities`, one for each class; `logit` or `probability`, a single number, which speaks
            for the second of two classes beyond 0 or 0.5.

    Raises:
        ValueError: no such kind.
    """

    kind: OutputType = "logits"

    def __post_init__(self) -> None:
        if self.kind not in get_args(OutputType):
            raise ValueError(f"output_type is {self.kind!r}")

    @property
    def single(self) -> bool:
        """Whether one number decides between two classes."""
        return self.kind in ("logit", "probability")

    @property
    def of_probabilities(self) -> bool:
        """Whether scores are probabilities; logits otherwise."""
        return self.kind in ("probabilities", "probability")

    @property
    def noun(self) -> str:
        """What a score is, in words."""
        return "probability" if self.of_probabilities else "logit"

    @property
    def plural(self) -> str:
        """What the numbers of an image are, in words."""
        return f"a single {self.kind}" if self.single else self.kind

    @property
    def border(self) -> float:
        """Number beyond which a single output means the second class."""
        return 0.5 if self.of_probabilities else 0.0

    def text(self, classes: Sequence[str]) -> str:
        """What a file with these classes gives of an image, in words."""
        if not self.single:
            return f"{self.kind}, one for each class"
        return f"a single {self.kind}: up to {self.border:g} {classes[0]}, beyond {classes[1]}"

    def width(self, classes: int) -> int:
        """How many numbers a file with so many classes gives of an image."""
        return 1 if self.single else classes

    def scores(self, raw: NDArray[Any], images: int) -> NDArray[np.float32]:
        """What a runner gives of some images, whatever axes of size 1 it has → scores (images, classes).

        A single logit z becomes [0, z], a single probability p becomes [1 - p, p]: differences and the larger of the
        two say what the single number says.

        Raises:
            BadInputError: not one row for each of `images`.
        """
        found = np.asarray(raw)
        if found.size % images or found.size == 0 or (images > 1 and len(found) != images):
            raise BadInputError(
                f"The model gives {found.shape} numbers for {images} images, not one row for each.",
                "Its batch may be fixed: export it with any batch, or with the one that it takes.",
            )
        rows = found.reshape(images, -1).astype(np.float32, copy=False)
        if not self.single:
            return rows
        return np.concatenate([1 - rows if self.of_probabilities else np.zeros_like(rows), rows], axis=1)

    def tensor_scores(self, raw: Tensor) -> Tensor:
        """Turn what a file gives into scores, for a PyTorch tensor (images, …), where it lies; float32."""
        import torch

        rows = raw.reshape(len(raw), -1).to(torch.float32)
        if not self.single:
            return rows
        return torch.cat([1 - rows if self.of_probabilities else torch.zeros_like(rows), rows], dim=1)

    def probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → probabilities in float64: those that the file gives, or the softmax of its logits."""
        wide = scores.astype(np.float64)
        return wide if self.of_probabilities else np.asarray(special.softmax(wide, axis=1), np.float64)

    def logits(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → numbers whose softmax is the probabilities, in float64: logits, or logarithms."""
        wide = scores.astype(np.float64)
        return np.log(np.maximum(wide, _LEAST)) if self.of_probabilities else wide

    def log_probabilities(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Scores (n, classes) → logarithms of the probabilities, which sum to 1."""
        return np.asarray(special.log_softmax(self.logits(scores), axis=1), np.float64)


LOGITS = ModelOutput()
