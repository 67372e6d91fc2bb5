"""Configuration of a HEMF network: a frozen, validated description, and the three registered sizes.

Knows nothing of weights, files or torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hemf_export.files.errors import BadInputError, did_you_mean

STAGES = 4
STRIDE = 32  # of the last stage: 4 in the stem, then 2 before each of stages 2 to 4
# Upper limits: a file's header beyond them asks for memory or time that no network of this kind needs.
LIMITS = {
    "num_classes": 100_000,
    "width": 512,
    "image_size": 1024,
    "elf_depth": 32,
    "egf_depth": 32,
    "heads": 64,
    "memory_slots": 4096,
}

Branches = Literal["both", "local", "global"]
Attention = Literal["mixed", "mhea", "ca-sa", "none"]
Mlp = Literal["sirmlp", "irmlp", "projection", "none"]
# Parts that ablations leave out; the first of each is the paper's full network.
CHOICES: dict[str, tuple[str, ...]] = {
    "branches": get_args(Branches),
    "attention": get_args(Attention),
    "mlp": get_args(Mlp),
}


@dataclass(frozen=True)
class HemfConfig:
    """Everything that determines the tensors of a HEMF network.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        width: channels C of stage 1; stage i has C * 2**(i - 1).
        image_size: height and width of the input in pixels, a multiple of 32. The position
            tables of EGF are made for it.
        elf_depth: ELF blocks in each local stage.
        egf_depth: layers in each EGF block.
        heads: heads of retention and of MHEA.
        memory_slots: rows of MHEA's shared external memory (64 in the paper's code).
        branches: both, or one alone, whose last stage the head then takes without fusion.
        attention: Mixed Attention, its MHEA or its channel and spatial gates (CA, SA) alone, or none.
        mlp: last part of a fusion block: SIRMLP, IRMLP, or a 1×1 convolution with BatchNorm. One branch alone has none.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    name: str = "hemf-base"
    num_classes: int = 7
    width: int = 96
    image_size: int = 224
    elf_depth: int = 4
    egf_depth: int = 3
    heads: int = 8
    memory_slots: int = 64
    branches: Branches = "both"
    attention: Attention = "mixed"
    mlp: Mlp = "sirmlp"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadInputError(f"The name of a configuration must be text, not {self.name!r}.")
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadInputError(f"{name} must be a positive integer, not {value!r}.")
            if value > limit:
                raise BadInputError(f"{name} must be at most {limit:,}, not {value:,}.")
        if self.image_size % STRIDE:
            raise BadInputError(
                f"image_size must be a multiple of {STRIDE}, not {self.image_size}.",
                hint=f"The nearest are {self.image_size // STRIDE * STRIDE or STRIDE} "
                f"and {(self.image_size // STRIDE + 1) * STRIDE}.",
            )
        head_channels, rest = divmod(self.width, self.heads)
        if rest or head_channels % 2 or head_channels < 4:
            raise BadInputError(
                f"width {self.width} must split into {self.heads} heads of an even number of channels, at least 4."
            )
        if self.width % 16:
            raise BadInputError(f"width must be a multiple of 16 (channel attention divides it so), not {self.width}.")
        self._check_choices()

    def _check_choices(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"No {name} of a HEMF network is {value!r}.", did_you_mean(str(value), known))
        if self.branches != "both" and (self.attention, self.mlp) != ("none", "none"):
            raise BadInputError(
                f"The {self.branches} branch alone has no fusion, so neither attention nor mlp.",
                "Both must be 'none'.",
            )
        if self.branches == "both" and self.mlp == "none":
            raise BadInputError("Two branches are fused by an mlp: 'none' is for one alone.", "Choose 'projection'.")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of stages 1 to 4."""
        return tuple(self.width * 2**stage for stage in range(STAGES))

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Height and width, in pixels, of the maps of stages 1 to 4."""
        return tuple(self.image_size // (4 * 2**stage) for stage in range(STAGES))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints and manifests.

        Choices of the full network are left out, as in files from before there were any.
        """
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != CHOICES.get(name, (None,))[0]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HemfConfig:
        """Read what `to_dict` gave; an unknown key is an error that names the most similar one."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise BadInputError(f"Unknown key {key!r} in a HEMF configuration.", hint=did_you_mean(key, known))
        return cls(**values)


SIZES: dict[str, HemfConfig] = {
    "hemf-base": HemfConfig(name="hemf-base", width=96),
    "hemf-small": HemfConfig(name="hemf-small", width=64),
    "hemf-tiny": HemfConfig(name="hemf-tiny", width=32),
}


def registered(name: str, *, num_classes: int = 7, image_size: int = 224) -> HemfConfig:
    """Look up the registered size `name`, for a number of classes and an image size.

    Raises:
        BadInputError: no such size.
    """
    if name not in SIZES:
        raise BadInputError(f"No HEMF size is named {name!r}.", hint=did_you_mean(name, SIZES))
    return dataclasses.replace(SIZES[name], num_classes=num_classes, image_size=image_size)
