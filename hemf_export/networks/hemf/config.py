"""Configuration of a HEMF network, and the three registered sizes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.networks.configuration import NetworkConfig

STAGES = 4
LIMITS = {
    "width": 512,
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
class HemfConfig(NetworkConfig):
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

    FAMILY: ClassVar[str] = "hemf"

    name: str = "hemf-base"
    width: int = 96
    elf_depth: int = 4
    egf_depth: int = 3
    heads: int = 8
    memory_slots: int = 64
    branches: Branches = "both"
    attention: Attention = "mixed"
    mlp: Mlp = "sirmlp"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in LIMITS.items():
            self.require_positive(name, limit)
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

        The family, and the choices of the full network, are left out, as in files from before there were others.
        """
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != CHOICES.get(name, (None,))[0]}


SIZES: dict[str, HemfConfig] = {
    "hemf-base": HemfConfig(name="hemf-base", width=96),
    "hemf-small": HemfConfig(name="hemf-small", width=64),
    "hemf-tiny": HemfConfig(name="hemf-tiny", width=32),
}
