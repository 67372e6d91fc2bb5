"""The training recipe. Defaults: Table 5 of the paper, and what the authors' code adds; everything else is off."""

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
_LARGEST_SEED = 2**63 - 1  # the largest integer of TOML
_AT_LEAST_ONE = ("epochs", "batch_size", "accumulation_steps", "rand_operations")
_POSITIVE = ("learning_rate", "final_learning_rate", "warmup_start", "temperature")
_NOT_NEGATIVE = (
    "warmup_epochs", "weight_decay", "gradient_clip", "focal_gamma", "logit_adjustment", "mixup_alpha", "cutmix_alpha",
)  # fmt: skip
_BELOW_ONE = ("drop_path", "label_smoothing", "class_balanced_beta", "ema_decay")
# Field → the choice without which it has no effect.
_BELONGS_TO = {
    "class_balanced_beta": ("loss", "class-balanced"),
    "focal_gamma": ("loss", "focal"),
    "logit_adjustment": ("loss", "logit-adjusted"),
    "rand_operations": ("augmentation", "rand"),
    "rand_magnitude": ("augmentation", "rand"),
}


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run; saved in every checkpoint.

    Args:
        epochs: passes over the training images.
        batch_size: images per optimizer step, over all processes of a run.
        accumulation_steps: micro-batches that a batch is divided into to fit into memory; BatchNorm's statistics in
            training are those of a micro-batch. See `train.sampling`.
        learning_rate: the peak, reached at the end of the warm-up.
        final_learning_rate: the rate at the end of the cosine decay.
        warmup_epochs: epochs of linear warm-up from `warmup_start` times the peak; 0 for none.
        warmup_start: share of the peak that the warm-up starts from.
        weight_decay: weight decay of AdamW; not applied to biases and other 1-dimensional parameters.
        gradient_clip: largest norm of all gradients together (Pascanu et al. 2013); 0 for no clipping.
        drop_path: stochastic depth (Huang et al. 2016): the probability of dropping the last residual branch, rising
            linearly from 0 with depth. See `networks.drop_path`.
        ema_decay: decay of the exponential moving average of the weights, which is then evaluated and kept; 0 for
            none. See `train.weight_average`.
        loss: the loss function; see `train.losses`.
        label_smoothing: share of each target that is spread over all classes (Szegedy et al. 2016).
        class_balanced_beta: β of the class-balanced loss.
        focal_gamma: γ of the focal loss.
        logit_adjustment: τ of the logit-adjusted loss.
        distillation_weight: share of the divergence from the teacher's probabilities in the loss, if there is a
            teacher; see `train.distillation`.
        temperature: temperature that softens both networks' probabilities.
        augmentation: "crop-flip" is the authors'; "rand" adds `rand_operations` of `train.augmentation`.
        rand_operations: operations per image.
        rand_magnitude: their magnitude, 0 to 30.
        mixup_alpha: α of MixUp's Beta distribution; 0 for none. See `train.augmentation`.
        cutmix_alpha: α of CutMix's; 0 for none. With both, one of the two is drawn for each batch.
        sampling: order of the images; see `train.sampling`. "class-balanced" and the losses "class-balanced" and
            "logit-adjusted" correct the same imbalance: together they correct it twice.
        sync_batch_norm: compute BatchNorm over the batches of all processes.
        seed: seeds initialization, order, augmentation, mixing and drop path.

    Raises:
        UsageError: a value is out of range, or belongs to a choice that was not made.
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
        """Raise UsageError for a value that would have no effect: whoever set it expects one."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, (choice, needed) in _BELONGS_TO.items():
            if getattr(self, name) != defaults[name] and getattr(self, choice) != needed:
                raise UsageError(
                    f"{name} does nothing with {choice} {getattr(self, choice)!r}.",
                    f"Choose {choice} {needed!r}, or leave {name} out.",
                )

    def refuse_without_teacher(self) -> None:
        """Raise UsageError for a value that has no effect without a teacher."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("distillation_weight", "temperature"):
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{name} does nothing without a teacher.", f"Add `teacher=CKPT`, or leave {name} out.")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then cosine decay over the remaining epochs."""
        warmup = min(self.warmup_epochs, self.epochs - 1) * steps_per_epoch
        if step < warmup:
            share = self.warmup_start + (1 - self.warmup_start) * step / warmup
            return self.learning_rate * share
        remaining = max(1, self.epochs * steps_per_epoch - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / remaining))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types, for checkpoints."""
        return dataclasses.asdict(self)


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """List the differences between two descriptions, each as `name: old → new`."""
    names = [*saved, *(name for name in wanted if name not in saved)]
    return [f"{name}: {saved.get(name)} → {wanted.get(name)}" for name in names if saved.get(name) != wanted.get(name)]


def refuse_differences(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise BadInputError if a run would be resumed with another configuration."""
    changed = differences(saved, wanted)
    if changed:
        raise BadInputError(
            f"The run was started with another configuration: {'; '.join(changed)}.",
            "Resume with the same options, or start a new run in another folder.",
        )
