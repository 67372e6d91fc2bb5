"""Reduced networks by name: the rows of the paper's Table 10, and IRMLP, which Table 3 compares with SIRMLP.

The paper lists the components of each row, but not how they are connected. Our reading, the simplest that keeps all
shapes:

- A branch alone (`local-only`, `global-only`) has no fusion: the head takes its last stage.
- Two branches always have h_y, the joint projection of both, and the previous fusion h_x (equations 7 and 8).
- Without attention, the maps of both branches are concatenated with h_y unchanged; with MHEA alone, m = LN(MHEA(n)·n),
  n = LN(x); with the gates alone (`ca-sa`), their input is m = LN(x).
- Without SIRMLP, its first step alone: one 1×1 convolution 3C → C and a BatchNorm.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.networks.configuration import WHOLE
from hemf_export.networks.hemf.config import Attention, Branches, HemfConfig, Mlp


class Variant(NamedTuple):
    """The choices of a `HemfConfig` that a name stands for."""

    branches: Branches = "both"
    attention: Attention = "mixed"
    mlp: Mlp = "sirmlp"


VARIANTS = {
    "local-only": Variant("local", "none", "none"),
    "global-only": Variant("global", "none", "none"),
    "both": Variant("both", "none", "projection"),
    "both+mhea": Variant("both", "mhea", "projection"),
    "both+ca-sa": Variant("both", "ca-sa", "projection"),
    "both+mixed": Variant("both", "mixed", "projection"),
    WHOLE: Variant(),
    "full-irmlp": Variant("both", "mixed", "irmlp"),
}
TABLE_10 = ("local-only", "global-only", "both", "both+mhea", "both+ca-sa", "both+mixed", WHOLE)


def vary(config: HemfConfig, variant: str) -> HemfConfig:
    """Change `config` to a variant, and add the variant to its name: hemf-tiny → hemf-tiny-both+mhea.

    Raises:
        BadInputError: no such variant.
    """
    if variant not in VARIANTS:
        raise BadInputError(f"No variant of HEMF is named {variant!r}.", did_you_mean(variant, VARIANTS))
    if variant == WHOLE:
        return config
    return dataclasses.replace(config, name=f"{config.name}-{variant}", **VARIANTS[variant]._asdict())


def variant_of(config: HemfConfig) -> str | None:
    """Name of the variant that a configuration is; None for none."""
    own = Variant(config.branches, config.attention, config.mlp)
    return next((name for name, choices in VARIANTS.items() if choices == own), None)


class Components(NamedTuple):
    """Components of a network, the columns of Table 10."""

    elf: bool
    egf: bool
    mhea: bool
    gates: bool
    sirmlp: bool


COMPONENT_TITLES = ("ELF", "EGF", "MHEA", "CA&SA", "SIRMLP")


def components(variant: str) -> Components:
    """Components of a variant."""
    branches, attention, mlp = VARIANTS[variant]
    return Components(
        elf=branches != "global",
        egf=branches != "local",
        mhea=attention in ("mixed", "mhea"),
        gates=attention in ("mixed", "ca-sa"),
        sirmlp=mlp == "sirmlp",
    )
