"""State dicts: check that the tensors are a network's, and build a network to load them into."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hemf_export.files.errors import BadInputError
from hemf_export.networks.config import HemfConfig
from hemf_export.networks.model import HEMF

ROOTS = frozenset(  # first parts of the network's own names
    ["local_steps", "global_steps", "local_stages", "global_stages", "fusion_stages", "head_norm", "head"]
)
COUNTERS = "num_batches_tracked"  # of BatchNorm; inference never reads them
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN = 5


class _NoInitialization(TorchFunctionMode):
    """Skip the initialization of new parameters, which would take longer than reading the file."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def build_empty(config: HemfConfig) -> HEMF:
    """Build a network whose weights are about to be replaced: their memory is uninitialized."""
    with _NoInitialization():
        return HEMF(config)


@functools.lru_cache(maxsize=8)
def _expected(config: HemfConfig) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Expected shapes and types of a network's tensors, by name."""
    return {name: (value.shape, value.dtype) for name, value in build_empty(config).state_dict().items()}


def strip_prefixes(key: str) -> str:
    """Strip the prefixes of DistributedDataParallel and torch.compile from a tensor's name."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def fill_counters(state: dict[str, Tensor], config: HemfConfig) -> tuple[dict[str, Tensor], int]:
    """Add zeros for missing BatchNorm counters; returns the state dict and the number of them."""
    expected = _expected(config)
    lacking = [name for name in expected if name.endswith(COUNTERS) and name not in state]
    return {**state, **{name: torch.zeros((), dtype=torch.int64) for name in lacking}}, len(lacking)


def check(state: dict[str, Tensor], config: HemfConfig, beside: Sequence[str] = ()) -> None:
    """Raise BadInputError, with counts and names, for tensors missing, unexpected, or of another shape or type.

    Args:
        state: tensors by name.
        config: the network's configuration.
        beside: names of other tensors in the file: missing ones may be among them, under another name.
    """
    expected = _expected(config)
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
