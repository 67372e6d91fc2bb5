"""The training recipe: by default Table 5 of the paper, with what its code adds. Everything beyond that is off."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hemf_export.files.errors import BadInputError, UsageError, did_you_mean

Loss = Literal["cross-entropy", "class-balanced", "focal", "logit-adjusted"]
Augmentation = Literal["crop-flip", "rand"]
Sampling = Literal["shuffled", "class-balanced"]

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(Loss),
    "augmentation": get_args(Augmentation),
    "sampling": get_args(Sampling),
}
LARGEST_MAGNITUDE = 30.0  # RandAugment's scale
_LARGEST_SEED = 2**63 - 1  # of TOML's integers
_AT_LEAST_ONE = ("epochs", "batch_size", "accumulation_steps", "rand_operations")
_POSITIVE = ("learning_rate", "final_learning_rate", "warmup_start", "temperature")
_NOT_NEGATIVE = (
    "warmup_epochs", "weight_decay", "gradient_clip", "focal_gamma", "logit_adjustment", "mixup_alpha", "cutmix_alpha",
)  # fmt: skip
_BELOW_ONE = ("drop_path", "label_smoothing", "class_balanced_beta", "ema_decay")
# Field → the choice without which it does nothing.
_BELONGS_TO = {
    "class_balanced_beta": ("loss", "class-balanced"),
    "focal_gamma": ("loss", "focal"),
    "logit_adjustment": ("loss", "logit-adjusted"),
    "rand_operations": ("augmentation", "rand"),
    "rand_magnitude": ("augmentation", "rand"),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; saved in every checkpoint.

    Args:
        epochs: passes over the training images.
        batch_size: images that change the weights once, over all processes of a run.
        accumulation_steps: micro-batches that a batch is cut into to fit into memory; BatchNorm's statistics in
            training are those of a micro-batch. See `train.batches`.
        learning_rate: the peak, reached at the end of the warm-up.
        final_learning_rate: where the cosine ends.
        warmup_epochs: linear warm-up from `warmup_start` of the rate; 0 for none.
        warmup_start: the share of the rate that the warm-up starts from.
        weight_decay: of AdamW; not on biases and other 1-dimensional parameters.
        gradient_clip: largest norm of all gradients together (Pascanu et al. 2013); 0 for none.
        drop_path: stochastic depth (Huang et al. 2016), the share of images that the last residual branch is left
            out for; rises from 0 linearly with depth. See `networks.drop_path`.
        ema_decay: of the running average of the weights, which is what is evaluated and kept; 0 for none. See
            `train.weight_average`.
        loss: see `train.losses`.
        label_smoothing: share of each target that is spread over all classes (Szegedy et al. 2016).
        class_balanced_beta: of the class-balanced loss.
        focal_gamma: of the focal loss.
        logit_adjustment: τ of the logit-adjusted loss.
        distillation_weight: share of the loss that is the distance from a teacher's probabilities, where there is a
            teacher; see `train.distillation`.
        temperature: that softens both their probabilities.
        augmentation: "crop-flip" is the authors'; "rand" adds `rand_operations` of `train.augmentation`.
        rand_operations: drawn for each image.
        rand_magnitude: their strength, 0 to 30.
        mixup_alpha: of MixUp's Beta distribution; 0 for none. See `train.mixing`.
        cutmix_alpha: of CutMix's. With both, one of the two is drawn for each batch.
        sampling: see `train.sampling`. "class-balanced" and the losses "class-balanced" and "logit-adjusted" mend
            the same thing: together they mend it twice.
        sync_batch_norm: BatchNorm over the batches of all processes.
        seed: of the initialization, the order, the augmentation, the mixing and drop path.

    Raises:
        UsageError: a value out of range, or set for a choice that was not made.
    """

    epochs: int = 150
    batch_size: int = 32
    accumulation_steps: int = 1
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    warmup_epochs: int = 1
    warmup_start: float = 1e-3
    weight_decay: float = 0.01
    gradient_clip: float = 0.0
    drop_path: float = 0.0
    ema_decay: float = 0.0
    loss: Loss = "cross-entropy"
    label_smoothing: float = 0.0
    class_balanced_beta: float = 0.999
    focal_gamma: float = 2.0
    logit_adjustment: float = 1.0
    distillation_weight: float = 0.5
    temperature: float = 2.0
    augmentation: Augmentation = "crop-flip"
    rand_operations: int = 2
    rand_magnitude: float = 9.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    sampling: Sampling = "shuffled"
    sync_batch_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"No {name} is named {getattr(self, name)!r}.", did_you_mean(getattr(self, name), known)
                )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.batch_size < 2:
            raise UsageError("batch_size must be at least 2: BatchNorm needs it.")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must not be negative, nor infinite: {getattr(self, name)}.")
        for name in _BELOW_ONE:
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)}.")
        if not 0 <= self.distillation_weight <= 1:
            raise UsageError(f"distillation_weight is a share, 0 to 1, not {self.distillation_weight}.")
        if not 0 <= self.rand_magnitude <= LARGEST_MAGNITUDE:
            raise UsageError(f"rand_magnitude must be 0 to {LARGEST_MAGNITUDE:g}, not {self.rand_magnitude}.")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UsageError(f"seed must be 0 to 2**63 - 1, not {self.seed}.")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """A value that would change nothing was meant for something."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, (choice, needed) in _BELONGS_TO.items():
            if getattr(self, name) != defaults[name] and getattr(self, choice) != needed:
                raise UsageError(
                    f"{name} does nothing with {choice} {getattr(self, choice)!r}.",
                    f"Choose {choice} {needed!r}, or leave {name} out.",
                )

    def refuse_without_teacher(self) -> None:
        """Raise UsageError where something is set that only a teacher gives a sense."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("distillation_weight", "temperature"):
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{name} does nothing without a teacher.", f"Add `teacher=CKPT`, or leave {name} out.")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of one step, counted from 0: linear warm-up, then half a cosine over the remaining epochs."""
        warmup = min(self.warmup_epochs, self.epochs - 1) * steps_per_epoch
        if step < warmup:
            share = self.warmup_start + (1 - self.warmup_start) * step / warmup
            return self.learning_rate * share
        remaining = max(1, self.epochs * steps_per_epoch - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / remaining))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints."""
        return dataclasses.asdict(self)


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two descriptions, as `name: old → new`."""
    names = [*saved, *(name for name in wanted if name not in saved)]
    return [f"{name}: {saved.get(name)} → {wanted.get(name)}" for name in names if saved.get(name) != wanted.get(name)]


def refuse_differences(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise BadInputError where a run would be resumed with another configuration."""
    changed = differences(saved, wanted)
    if changed:
        raise BadInputError(
            f"The run was started with another configuration: {'; '.join(changed)}.",
            "Resume with the same options, or start a new run in another folder.",
        )
