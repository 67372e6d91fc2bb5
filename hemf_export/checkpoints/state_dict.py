"""State dicts: check that the tensors are a network's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hemf_export.files.errors import BadInputError
from hemf_export.networks import registry
from hemf_export.networks.configuration import NetworkConfig

COUNTERS = "num_batches_tracked"  # of BatchNorm; inference never reads them
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN = 5


def strip_prefixes(key: str) -> str:
    """Strip the prefixes of DistributedDataParallel and torch.compile from a tensor's name."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def fill_counters(state: dict[str, Tensor], config: NetworkConfig) -> tuple[dict[str, Tensor], int]:
    """Add zeros for missing BatchNorm counters; returns the state dict and the number of them."""
    expected = registry.family_of(config).shapes(config)
    lacking = [name for name in expected if name.endswith(COUNTERS) and name not in state]
    return {**state, **{name: torch.zeros((), dtype=torch.int64) for name in lacking}}, len(lacking)


def check(state: dict[str, Tensor], config: NetworkConfig, beside: Sequence[str] = ()) -> None:
    """Raise BadInputError, with counts and names, for tensors missing, unexpected, or of another shape or type.

    Args:
        state: tensors by name.
        config: the network's configuration.
        beside: names of other tensors in the file: missing ones may be among them, under another name.
    """
    expected = registry.family_of(config).shapes(config)
    missing = [name for name in expected if name not in state]
    unexpected = sorted([*(name for name in state if name not in expected), *(beside if missing else ())])
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(shape)}"
        for name, (shape, _) in expected.items()
        if name in state and state[name].shape != shape
    ]
    other = [name for name, (_, dtype) in expected.items() if not _fits(state.get(name), dtype)]
    kinds = [f"{name} {_kind(state[name])}" for name in other]
    problems = [
        f"{len(names)} {what}: {first(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another type", kinds),
        )
        if names
    ]
    if problems:
        raise BadInputError(f"The tensors are not this network's: {'; '.join(problems)}.")


def _fits(value: Tensor | None, expected: torch.dtype) -> bool:
    """Whether a tensor, if there is one, can be loaded into a tensor of a type without loss."""
    if value is None:
        return True
    plain = value.layout is torch.strided and not value.is_meta and not value.is_complex()
    return plain and (value.dtype == expected or not expected.is_floating_point)


def _kind(value: Tensor) -> str:
    where = "without data, " if value.is_meta else "sparse, " if value.layout is not torch.strided else ""
    return f"({where}{str(value.dtype).removeprefix('torch.')})"


def first(names: Sequence[str]) -> str:
    """Join the first five names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
