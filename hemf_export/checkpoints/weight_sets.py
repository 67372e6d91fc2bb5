"""Find the network's weights in a checkpoint of another training program.

Such programs nest state dicts (`state_dict`, `model`, `ema` …), prefix keys with an attribute's name (`model.`,
`module.model.`), and save optimizers, criteria and metrics beside them. There is no list of their names here: a set of
weights is recognized by the network's own keys, wherever they are. Works on dictionaries, not files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hemf_export.checkpoints import state_dict
from hemf_export.files.errors import BadInputError
from hemf_export.networks.network import Layout

NO_NAME = "."  # the set at the top level of the file
_DEEPEST = 4  # levels of nested dictionaries
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averag\w*|shadow)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Tensors of one network in a checkpoint.

    Args:
        place: keys of the dictionaries that they are in, from the top.
        prefix: prefix of their names, such as `model.`, or empty.
        tensors: tensors by the network's own names.
        beside: full names of other tensors in the same dictionary.
        unknown: those of them that have the prefix and are none of the network's, where all of its names are known.
    """

    place: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name by which a user selects it, such as `state_dict.model`; empty at the top level of the file."""
        return ".".join((*self.place, *([self.prefix[:-1]] if self.prefix else [])))

    @property
    def shown(self) -> str:
        """Location, for messages."""
        prefix = f"the prefix {self.prefix!r}" if self.prefix else ""
        if not self.place:
            return f"the keys with {prefix}" if prefix else "the file's own keys"
        return repr(".".join(self.place)) + (f" with {prefix}" if prefix else "")

    def is_under(self, wanted: str) -> bool:
        """Whether a user's name for it is its own, or a part of that at its beginning or end."""
        own = self.name
        return (own or NO_NAME) == wanted or own.startswith(f"{wanted}.") or own.endswith(f".{wanted}")

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an average over the training (EMA, SWA)."""
        return bool(_AVERAGED.search(self.name))

    def left_out(self, content: Mapping[str, Any]) -> list[str]:
        """List the keys of everything else in the file."""
        others = list(self.beside)
        for depth in range(len(self.place) + 1):
            inside: Any = content
            for key in self.place[:depth]:
                inside = inside[key]
            own = self.place[depth] if depth < len(self.place) else None
            names = [str(key) for key, value in inside.items() if not isinstance(value, Tensor) and str(key) != own]
            if own is not None:
                names += [str(key) for key, value in inside.items() if isinstance(value, Tensor)]
            others += [".".join((*self.place[:depth], name)) for name in names]
        return others


def find(content: Mapping[str, Any], layout: Layout) -> list[WeightSet]:
    """List every set of weights in a dictionary, in its order, that have names as in a network's layout."""
    return list(_walk((), content, layout, set()))


def _walk(
    place: tuple[str, ...], content: Mapping[str, Any], layout: Layout, seen: set[int]
) -> Iterator[WeightSet]:  # fmt: skip
    seen.add(id(content))
    groups: dict[str, dict[str, Tensor]] = {}
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for key, value in own.items():
        if (prefix := _prefix(key, layout)) is not None:
            groups.setdefault(prefix, {})[key.removeprefix(prefix)] = value.detach()
    for prefix, tensors in groups.items():
        beside = [".".join((*place, key)) for key in own if _prefix(key, layout) != prefix]
        strange = [key for key in own if layout.names and key.startswith(prefix) and _prefix(key, layout) is None]
        yield WeightSet(place, prefix, tensors, tuple(beside), tuple(strange))
    if len(place) < _DEEPEST:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                yield from _walk((*place, key), value, layout, seen)


def _prefix(key: str, layout: Layout) -> str | None:
    """Prefix before the network's own name of a tensor; None where a key has no such name in it."""
    parts = key.split(".")
    places = [index for index in range(len(parts)) if ".".join(parts[index:]) in layout.names]
    places += [index for index, part in enumerate(parts) if part in layout.roots]
    return "".join(f"{before}." for before in parts[: places[0]]) if places else None


def choose(
    sets: Sequence[WeightSet], wanted: str | None, refusal: Callable[[WeightSet], BadInputError | None]
) -> WeightSet:
    """Choose a set of weights.

    Args:
        sets: all sets, at least one.
        wanted: name of one; None for the network's own, where that is unambiguous.
        refusal: gives the error where a set is no whole network, else None.

    Raises:
        BadInputError: none is whole, several could be meant, or none has that name.
    """
    if wanted is not None:
        return _named(sets, wanted)
    largest = max(len(one.tensors) for one in sets)
    candidates = [one for one in sets if 2 * len(one.tensors) > largest]
    reasons = [refusal(one) for one in candidates]
    whole = _distinct([one for one, reason in zip(candidates, reasons, strict=True) if reason is None])
    if not whole:
        first = next(reason for reason in reasons if reason is not None)
        if len(candidates) == 1:
            raise first
        pairs = zip(candidates, reasons, strict=True)
        texts = " ".join(f"{one.shown}: {reason.message}" for one, reason in pairs if reason is not None)
        raise BadInputError(f"None of its {len(candidates)} sets of weights is a whole network. {texts}", first.hint)
    own = [one for one in whole if not one.averaged] or whole
    if len(own) > 1:
        raise BadInputError(
            f"{len(own)} sets of weights could be meant: {', '.join(one.shown for one in own)}.",
            f"Say which: {' or '.join(f'`weights={one.name or NO_NAME!r}`' for one in own)}.",
        )
    _refuse_mixture(own[0], sets)
    return own[0]


def _named(sets: Sequence[WeightSet], wanted: str) -> WeightSet:
    """Find the set of that name, or the only one under it."""
    matching = [one for one in sets if (one.name or NO_NAME) == wanted] or [one for one in sets if one.is_under(wanted)]
    known = ", ".join(one.shown for one in sets)
    if not matching:
        raise BadInputError(f"It has no weights under {wanted!r}.", f"It has them under {known}.")
    largest = max(matching, key=lambda one: len(one.tensors))
    if any(one is not largest and 2 * len(one.tensors) > len(largest.tensors) for one in matching):
        raise BadInputError(
            f"Several sets of weights are under {wanted!r}: {', '.join(one.shown for one in matching)}.",
            "Name one whole.",
        )
    return largest


def _distinct(sets: Sequence[WeightSet]) -> list[WeightSet]:
    """Drop sets that equal an earlier one."""
    distinct: list[WeightSet] = []
    for one in sets:
        if not any(_equal(one.tensors, other.tensors) for other in distinct):
            distinct.append(one)
    return distinct


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.shape == second[name].shape and value.dtype == second[name].dtype and torch.equal(value, second[name])
        for name, value in first.items()
    )


def _refuse_mixture(chosen: WeightSet, sets: Sequence[WeightSet]) -> None:
    """Raise BadInputError where a tensor is there both with a wrapper's prefix and without, and they differ."""
    for other in sets:
        same_module = state_dict.strip_prefixes(other.prefix) == state_dict.strip_prefixes(chosen.prefix)
        if other is chosen or other.place != chosen.place or not same_module:
            continue
        twice = [name for name in other.tensors if name in chosen.tensors]
        if twice and not all(torch.equal(other.tensors[name], chosen.tensors[name]) for name in twice):
            raise BadInputError(
                f"{len(twice)} tensors are there twice, with a prefix and without: {state_dict.first(sorted(twice))}.",
                "Keep one of each.",
            )
