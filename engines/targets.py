"""GPUs that engines are built for, by name or by compute capability.

A name stands for a product, whose figures are in `engines.chips`. An engine is bound to less than a product: all GPUs
of a compute capability run it. This module doesn't know what is in this machine, nor which backend can build for what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hemf_export.engines import chips
from hemf_export.engines.chips import Abilities, Chip
from hemf_export.files.errors import UsageError, did_you_mean

Platform = Literal["x86-64", "aarch64"]


@dataclass(frozen=True)
class Target:
    """A GPU, or all of a compute capability.

    Args:
        name: used in file names: `t4`, or `sm_75` for the compute capability alone.
        compute_capability: major and minor.
        gpu: the product's name, as its driver tells it or starts to; None for any of the compute capability.
        chip: the product's published figures; None for any of the compute capability.
        platform: of the CPU beside it. An engine for aarch64 has to be built there: on the Jetson itself.
    """

    name: str
    compute_capability: tuple[int, int]
    gpu: str | None = None
    chip: Chip | None = None
    platform: Platform = "x86-64"

    @property
    def sm(self) -> str:
        """`sm_75`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"

    @property
    def abilities(self) -> Abilities:
        """What its tensor cores multiply."""
        return chips.abilities(self.compute_capability)


def _product(name: str, compute_capability: tuple[int, int], chip: Chip, platform: Platform = "x86-64") -> Target:
    return Target(name, compute_capability, chip.product, chip, platform)


TARGETS = {
    target.name: target
    for target in (
        _product("t4", (7, 5), chips.T4),
        _product("rtx-20", (7, 5), chips.RTX_20),
        _product("a100", (8, 0), chips.A100),
        _product("a10", (8, 6), chips.A10),
        _product("orin", (8, 7), chips.ORIN, "aarch64"),
        _product("l4", (8, 9), chips.L4),
        _product("l40s", (8, 9), chips.L40S),
        _product("h100", (9, 0), chips.H100),
        _product("h200", (9, 0), chips.H200),
    )
}


def find(name: str) -> Target:
    """A target by name (`t4`) or compute capability (`sm_75`), in any case.

    Raises:
        UsageError: neither.
    """
    if name.lower() in TARGETS:
        return TARGETS[name.lower()]
    if match := re.fullmatch(r"sm_?(\d+)(\d)", name.lower()):
        capability = int(match[1]), int(match[2])
        return Target(f"sm_{match[1]}{match[2]}", capability)
    raise UsageError(f"No target is named {name!r}.", f"{did_you_mean(name, TARGETS)} Or a compute capability, sm_75.")
