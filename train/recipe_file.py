"""Recipes as TOML files: fields of `train.recipe.Recipe`, one per line; omitted ones have the paper's values.

epochs = 50
loss = "focal"
label_smoothing = 0.1
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError, UsageError, did_you_mean
from hemf_export.train.recipe import CHOICES, Recipe

# Names that stand for a recipe instead of a file. `best` has the one extra that helped in measurements
# (benchmarks/extras.toml, docs/training-results.md): the others had no effect beyond the variation between seeds.
NAMED: dict[str, dict[str, Any]] = {"paper": {}, "best": {"sampling": "class-balanced"}}
GROUPS: dict[str, tuple[str, ...]] = {
    "Schedule": (
        "epochs", "batch_size", "accumulation_steps", "learning_rate", "final_learning_rate", "warmup_epochs",
        "warmup_start", "seed",
    ),
    "Regularization": ("weight_decay", "gradient_clip", "drop_path", "ema_decay", "sync_batch_norm"),
    "Loss": ("loss", "label_smoothing", "class_balanced_beta", "focal_gamma", "logit_adjustment"),
    "Distillation": ("distillation_weight", "temperature"),
    "Images": ("augmentation", "rand_operations", "rand_magnitude", "mixup_alpha", "cutmix_alpha", "sampling"),
}  # fmt: skip
_LARGEST_INTEGER = 2**63 - 1  # of TOML; Python's parser accepts larger ones
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}


def resolve(source: str | None, given: Mapping[str, Any]) -> Recipe:
    """Make a recipe from the paper's, overridden by a file or named recipe, overridden by single values.

    Args:
        source: see `load`; None for the paper's.
        given: fields that override those of the file.

    Raises:
        BadInputError, UsageError: see `load`; or a value is invalid, and the message names the file if it is there.
    """
    values = {} if source is None else load(source)
    try:
        return Recipe(**{**values, **given})
    except UsageError as error:
        in_file = [name for name in values if name not in given and re.search(rf"\b{name}\b", error.message)]
        raise UsageError(f"{source}: {error.message}" if in_file else error.message, error.hint) from error


def load(source: str) -> dict[str, Any]:
    """Read the fields that a TOML file, one of NAMED, or a network's published recipe sets.

    They are of the right types, and not yet checked together.

    Raises:
        BadInputError: the file doesn't exist, or is not TOML.
        UsageError: a field is unknown, or a value has the wrong type.
    """
    if source in NAMED:
        return dict(NAMED[source])
    path, named = Path(source), f"Recipes known by name: {', '.join(NAMED)}, and those of networks by theirs."
    if not path.exists():
        from hemf_export.networks import registry  # not before: it imports torch, which the command line's help doesn't

        if source in registry.SIZES:
            return dict(registry.family_of(registry.SIZES[source]).recipe)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"No recipe file at {source}.", named) from error
    except OSError as error:
        raise BadInputError(f"{source} can't be read as a recipe: {error.strerror or error}.", named) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = "Lines like `epochs = 50`; a whole file to start from: `recipe_file()`."
        raise BadInputError(f"{source} is not a TOML file: {str(error).rstrip('.')}.", hint) from error
    return {name: checked(source, name, value) for name, value in values.items()}


def dump(recipe: Recipe) -> str:
    """Format a recipe as a TOML file with every field, in groups; `load` reads it back."""
    lines: list[str] = []
    for group, names in GROUPS.items():
        lines.append(f"\n# {group}" if lines else f"# {group}")
        for name in names:
            choices = f"  # {', '.join(CHOICES[name])}" if name in CHOICES else ""
            # Numbers, truth values and plain texts are written the same in JSON and TOML.
            lines.append(f"{name} = {json.dumps(getattr(recipe, name))}{choices}")
    return "\n".join(lines) + "\n"


def checked(source: str, name: str, value: Any) -> Any:
    """Check one field and return its value in the field's type; messages name `source`.

    Raises:
        UsageError: there is no such field, or the value has the wrong type.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    if name not in defaults:
        if isinstance(value, dict):
            raise UsageError(f"{source}: {name!r} is a table.", "A recipe's fields are at the top level.")
        raise UsageError(f"{source}: unknown key {name!r}.", did_you_mean(name, defaults))
    kind = type(defaults[name])
    if type(value) is int and abs(value) > _LARGEST_INTEGER:
        raise UsageError(f"{source}: {name} is beyond 64 bits.", f"{name} = {json.dumps(defaults[name])}")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        shown = json.dumps(value, default=str)
        raise UsageError(
            f"{source}: {name} must be {_KINDS[kind]}, not {shown}.", f"{name} = {json.dumps(defaults[name])}"
        )
    return value
