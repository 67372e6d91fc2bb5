"""GPUs that engines are built for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hemf.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Target:
    """A GPU, or all of a compute capability.

    Args:
        name: used in file names: `t4`, or `sm_75` for the compute capability alone.
        compute_capability: major and minor.
        gpu: the product's name, as its driver tells it; None for any of the compute capability.
    """

    name: str
    compute_capability: tuple[int, int]
    gpu: str | None = None

    @property
    def sm(self) -> str:
        """`sm_75`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"


TARGETS = {
    target.name: target
    for target in (
        Target("t4", (7, 5), "Tesla T4"),
        Target("a100", (8, 0), "NVIDIA A100"),
        Target("a10", (8, 6), "NVIDIA A10"),
        Target("l4", (8, 9), "NVIDIA L4"),
    )
}


def find(name: str) -> Target:
    """A target by name (`t4`) or compute capability (`sm_75`).

    Raises:
        UsageError: neither.
    """
    if name.lower() in TARGETS:
        return TARGETS[name.lower()]
    if match := re.fullmatch(r"sm_?(\d+)(\d)", name.lower()):
        capability = int(match[1]), int(match[2])
        return Target(f"sm_{match[1]}{match[2]}", capability)
    raise UsageError(f"No target is named {name!r}.", f"{did_you_mean(name, TARGETS)} Or a compute capability, sm_75.")
