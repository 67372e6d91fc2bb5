"""Parse class names as other programs write them: a list, a string `a,b,c`, or a mapping between labels and names.

In a mapping the types tell which side is the label: torchvision's `class_to_idx` has integers,
`{"cat": 0, "dog": 1}`; the HEMF authors' `class_indices.json` has labels as strings, `{"0": "cat"}`. A class may
be named "10", so that a key which looks like a number isn't enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError

_ASK = "Give the names in the order of the outputs with `classes=(a, b, c)`."


def read(path: Path) -> tuple[str, ...]:
    """Read the names in a JSON file, in the order of their labels.

    Raises:
        BadInputError: it can't be read, or doesn't say which name has which label.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} doesn't map labels to names: {error}.", _ASK) from error
    return parse(value, str(path))


def parse(value: Any, where: str) -> tuple[str, ...]:
    """Parse names into the order of their labels.

    Args:
        value: a sequence of names, a string with commas or JSON, or a mapping of labels to names or the reverse.
        where: where it is from, for messages.

    Raises:
        BadInputError: it doesn't say which name has which label.
    """
    if isinstance(value, str):
        try:
            parsed = json.loads(value, object_pairs_hook=_without_repeats)
        except RecursionError as error:
            raise BadInputError(f"{where} has no names of classes, but {value[:40]!r} ….", _ASK) from error
        except ValueError:
            parsed = None
        if not isinstance(parsed, list | dict):
            return tuple(name.strip() for name in value.split(","))
        value = parsed
    if isinstance(value, Mapping):
        return _by_label(value, where)
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise BadInputError(f"{where} has no names of classes, but {value!r:.80}.", _ASK)


def _by_label(values: Mapping[Any, Any], where: str) -> tuple[str, ...]:
    pairs = _pairs(values, where)
    labels = sorted(label for label, _ in pairs)
    if labels != list(range(len(pairs))):
        raise BadInputError(f"{where} doesn't number the classes from 0 without a gap.", _ASK)
    return tuple(name for _, name in sorted(pairs))


def _pairs(values: Mapping[Any, Any], where: str) -> list[tuple[int, str]]:
    """Pairs (label, name), by the types of the keys and values."""
    keys, named = list(values), list(values.values())
    texts = all(isinstance(key, str) for key in keys), all(isinstance(value, str) for value in named)
    if texts[0] and all(type(value) is int for value in named):
        return [(value, key) for key, value in values.items()]
    if texts[1] and all(type(key) is int for key in keys):
        return list(values.items())
    if all(texts):
        numbers = all(map(_is_number, keys)), all(map(_is_number, named))
        if all(numbers):
            raise BadInputError(f"{where} has numbers as text on both sides: nothing says which are the labels.", _ASK)
        if numbers[0]:
            return [(int(key), value) for key, value in values.items()]
        if numbers[1]:
            return [(int(value), key) for key, value in values.items()]
    kinds = sorted({type(value).__name__ for value in (*keys, *named)})
    raise BadInputError(f"{where} doesn't map labels to names, nor names to labels: it has {', '.join(kinds)}.", _ASK)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return values
