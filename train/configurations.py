"""The configurations that an ablation compares: the rows of the paper's Table 10, or those of a TOML file.

[[configuration]]
name = "focal"
model = "hemf-small"     # a registered network, or one of the user's; left out: the command's
variant = "both+mixed"   # a reduced network, of a family that has some; left out: the whole network
recipe = "paper"         # a recipe by its name or a network's, or a file relative to this one; left out: the command's
epochs = 50              # any field of the recipe
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError, UsageError, did_you_mean
from hemf_export.networks import registry
from hemf_export.networks.configuration import WHOLE
from hemf_export.networks.hemf import variants
from hemf_export.train import recipe_file
from hemf_export.train.recipe import Recipe

TABLE = "configuration"  # [[configuration]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")  # also a valid folder name on any system
_NOT_OF_THE_RECIPE = ("name", "model", "variant", "recipe")
_LARGEST_FILE = 1_000_000  # bytes; a list of configurations is a few thousand


@dataclass(frozen=True)
class Configuration:
    """One member of an ablation.

    Args:
        name: names its folder and its row: letters, digits, `_`, `+` and `-`.
        variant: a reduced network: one of `networks.hemf.variants`, or of the model's family.
        recipe: the training recipe.
        fixed: the recipe's fields that the configuration itself sets.
        model: network, as `train.run.Options.model` takes it; None for the ablation's own.

    Raises:
        UsageError: the name is invalid, or there is no such network or variant.
    """

    name: str
    variant: str = WHOLE
    recipe: Recipe = field(default_factory=Recipe)
    fixed: tuple[str, ...] = ()
    model: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UsageError(
                f"A configuration can't be named {self.name!r}: its folder has that name.",
                "Letters, digits, '_', '+' and '-', at most 64, and first a letter or a digit.",
            )
        if self.model is not None and (not isinstance(self.model, str) or not self.model):
            raise UsageError(f"A model must be text, not {self.model!r} (configuration {self.name}).")
        if self.model is not None and ":" not in self.model and self.model not in registry.SIZES:
            hint = did_you_mean(self.model, registry.SIZES)
            raise UsageError(f"No network is named {self.model!r} (configuration {self.name}).", hint)
        known = _variants(self.model)
        if not isinstance(self.variant, str) or self.variant not in known:
            whose = "HEMF" if known == tuple(variants.VARIANTS) else str(self.model)
            hint = did_you_mean(str(self.variant), known) if len(known) > 1 else "Leave it out: there is none."
            raise UsageError(f"No variant of {whose} is named {self.variant!r} (configuration {self.name}).", hint)


def table_10(recipe: Recipe) -> tuple[Configuration, ...]:
    """The seven rows of the paper's Table 10, all with one recipe."""
    return tuple(Configuration(variant, variant, recipe) for variant in variants.TABLE_10)


def read(path: Path, recipe: Recipe) -> tuple[Configuration, ...]:
    """Read the configurations of a TOML file.

    Args:
        path: the file.
        recipe: gives the fields that a configuration does not set.

    Raises:
        BadInputError: no such file, or not TOML.
        UsageError: unknown keys, values of the wrong type or out of range, no configuration, or a repeated name.
    """
    content = _parse(path)
    for key in content:
        if key != TABLE:
            raise UsageError(f"{path}: unknown key {key!r}.", f"Each configuration is a table [[{TABLE}]].")
    tables = content.get(TABLE)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path} has no configuration.", f'Each is a table: [[{TABLE}]], then name = "…".')
    configurations = tuple(_configuration(path, table, recipe) for table in tables)
    try:
        refuse_repeated(configurations)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error
    return configurations


def refuse_repeated(configurations: Sequence[Configuration]) -> None:
    """Raise UsageError if two names differ at most in case: they would share a folder."""
    names = [configuration.name.casefold() for configuration in configurations]
    for configuration in configurations:
        if names.count(configuration.name.casefold()) > 1:
            raise UsageError(f"Two configurations are named {configuration.name!r}.", "Each needs a name of its own.")


def _parse(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise BadInputError(f"{path} is not a file.", "A TOML file with the configurations is needed.")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadInputError(f"{path} has {path.stat().st_size:,} bytes: not a list of configurations.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.", "Is the path right?") from error
    except RecursionError as error:
        raise BadInputError(f"{path} is nested too deeply to be read.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not TOML: {error}.", "Tables like `[[configuration]]` with a name.") from error


def _configuration(path: Path, table: Mapping[str, Any], base: Recipe) -> Configuration:
    if "name" not in table:
        raise UsageError(
            f"{path}: a configuration has no name, only {', '.join(table) or 'nothing'}.", 'Add name = "…".'
        )
    known = {*Recipe().to_dict(), *_NOT_OF_THE_RECIPE}
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}.", did_you_mean(key, known))
    own = {key: value for key, value in table.items() if key not in _NOT_OF_THE_RECIPE}
    try:
        variant = table.get("variant", WHOLE)
        configuration = Configuration(table["name"], variant, base, model=table.get("model"))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error
    source = f"{path}, {configuration.name}"
    values = {key: recipe_file.checked(source, key, value) for key, value in own.items()}
    if "recipe" in table:
        named = _recipe(source, path.parent, table["recipe"])
        base, values = Recipe(seed=base.seed), {**named, **values}
    try:
        return dataclasses.replace(configuration, recipe=dataclasses.replace(base, **values), fixed=tuple(values))
    except UsageError as error:
        raise UsageError(f"{source}: {error.message}", error.hint) from error


def _recipe(source: str, folder: Path, named: object) -> dict[str, Any]:
    """Load the fields of a recipe that a configuration names; the path of a file is relative to the list's folder."""
    if not isinstance(named, str):
        raise UsageError(f"{source}: recipe must be a text in quotes, not {named!r}.", 'recipe = "paper"')
    known = named in recipe_file.NAMED or named in registry.SIZES
    return recipe_file.load(named if known else str(folder / named))


def _variants(model: str | None) -> tuple[str, ...]:
    """List a network's variants; for the ablation's own network, which isn't known here, those of HEMF."""
    if model is None:
        return tuple(variants.VARIANTS)
    if model not in registry.SIZES:
        return (WHOLE,)
    return registry.family_of(registry.SIZES[model]).variants
