"""Knowledge distillation: a network learns from the probabilities of a trained one, its teacher.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2. The teacher sees each batch as the student does, with the
same crops and mixing ("consistent teaching", Beyer et al. 2022, arXiv 2106.05237).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files.errors import BadInputError
from hemf_export.files.names import composed, place_of
from hemf_export.images.images import Preprocess
from hemf_export.networks.network import memory_format


class Teacher:
    """A trained network that gives the logits to learn from; its weights are frozen.

    Args:
        saved: its checkpoint, of any model size.
        classes: the student's classes; the teacher may have them in another order.
        preprocess: the student's preprocessing. The teacher gets the same crop, resized (bilinear, antialiased) if its
            input size differs, with its own mean and standard deviation.
        device: device of both networks.

    Raises:
        BadInputError: its classes are not the student's, or its weights are not finite.
    """

    def __init__(
        self, saved: Checkpoint, classes: Sequence[str], preprocess: Preprocess, device: str | torch.device = "cpu"
    ) -> None:
        _require_same_classes(saved.classes, classes)
        saved.check_finite()
        self.name, self.sha256 = saved.config.name, saved.sha256
        self._model = saved.model().to(device).requires_grad_(False)
        self._format = memory_format(self._model)
        self._order = torch.tensor([place_of(name, saved.classes) for name in classes], device=device)
        self._size = saved.preprocess.size
        # From the student's normalization to the teacher's: x → x · scale + shift.
        student, own = (_statistics(description) for description in (preprocess, saved.preprocess))
        scale, shift = student[1] / own[1], (student[0] - own[0]) / own[1]
        self._same = bool((scale == 1).all() and (shift == 0).all())
        self._scale, self._shift = (value.float().reshape(1, 3, 1, 1).to(device) for value in (scale, shift))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalized for the student → logits (n, classes) in the student's class order."""
        if not self._same:
            images = images * self._scale + self._shift
        if images.shape[-1] != self._size:
            images = F.interpolate(images, (self._size, self._size), mode="bilinear", antialias=True)
        logits: Tensor = self._model(images.to(memory_format=self._format))
        return logits.index_select(1, self._order)


def load(
    path: Path,
    classes: Sequence[str],
    preprocess: Preprocess,
    device: str | torch.device = "cpu",
    reading: Reading = PLAIN,
) -> Teacher:
    """Load a teacher from a checkpoint; one of the authors', which names no classes, gets the student's.

    Raises:
        BadInputError: see `checkpoints.checkpoint.load` and `Teacher`; the file is named.
    """
    saved = checkpoint.load(path, reading=reading)
    try:
        return Teacher(saved, classes, preprocess, device)
    except BadInputError as error:
        raise BadInputError(f"The teacher {path}: {error.message}", error.hint) from error


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of softened probabilities, averaged over the images; logits (n, classes) → scalar.

    T² keeps the magnitude of the gradients when T changes (section 2 of the paper). Computed in float32.
    """
    softened = F.log_softmax(student.float() / temperature, 1)
    target = F.log_softmax(teacher.float() / temperature, 1)
    return temperature**2 * F.kl_div(softened, target, reduction="batchmean", log_target=True)


def blend(task: Tensor, student: Tensor, teacher: Tensor, *, weight: float, temperature: float) -> Tensor:
    """(1 - weight) · task + weight · `divergence`, where `task` is the loss against the labels."""
    return (1 - weight) * task + weight * divergence(student, teacher, temperature)


def _require_same_classes(own: Sequence[str], wanted: Sequence[str]) -> None:
    own, wanted = [composed(name) for name in own], [composed(name) for name in wanted]
    if set(own) == set(wanted):
        return
    problems = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("it lacks", sorted(set(wanted) - set(own))),
            ("it has besides", sorted(set(own) - set(wanted))),
        )
        if names
    ]
    raise BadInputError(f"its classes are not those of the data: {'; '.join(problems)}.", "Teach with one of the same.")


def _statistics(description: Preprocess) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(values, dtype=torch.float64) for values in (description.mean, description.std))  # type: ignore[return-value]
