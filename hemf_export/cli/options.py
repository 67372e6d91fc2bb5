"""Shared parts of commands: their classes, types of options, and options that several have.

Numbers have a range each, and are never NaN, infinite or absurdly large.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hemf_export.cli.flags import in_flags
from hemf_export.files.errors import HemfError, UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[Any, ...]]
else:
    _ParamType = click.ParamType  # generic only since click 8.4

_LARGEST_COUNT = 2**31 - 1  # range of integer fields in files and other programs
_LARGEST_SEED = 2**63 - 1


class Command(click.Command):
    """Command whose errors name its flags instead of the API's parameters.

    Args:
        groups: groups of options in `--help`: heading → names of parameters; other options come first.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Collection[str]] | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.groups = groups or {}

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if any(_is_factory(ctx.params.get(name)) for name in ("factory", "model", "teacher_model")):
                search_here()
            return super().invoke(ctx)
        except HemfError as error:
            error.message = in_flags(error.message)
            error.hint = None if error.hint is None else in_flags(error.hint)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        grouped = {name for names in self.groups.values() for name in names}
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = [(each.name, record) for each in options if (record := each.get_help_record(ctx)) is not None]
        sections = {"Options": [record for name, record in records if name not in grouped]}
        for heading, names in self.groups.items():
            sections[heading] = [record for name, record in records if name in names]
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


class Group(click.Group):
    """Command with subcommands."""

    command_class = Command


class Count(click.IntRange):
    """Type of an option that is a count."""

    name = "integer"

    def __init__(self, least: int = 1, most: int | None = None, *, largest: int = _LARGEST_COUNT) -> None:
        super().__init__(least, most)
        self.largest = largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to an integer, limited even without a maximum."""
        number = super().convert(value, param, ctx)
        if number > self.largest:
            self.fail(f"{value} is more than {self.largest}.", param, ctx)
        return number


class Seed(Count):
    """Type of an option that is a random seed."""

    def __init__(self) -> None:
        super().__init__(0, largest=_LARGEST_SEED)


class Number(click.FloatRange):
    """Type of an option that is a finite number."""

    name = "float"

    def __init__(self, least: float = 0.0, most: float | None = None, *, above: bool = False) -> None:
        super().__init__(least, most, min_open=above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a number, and refuse NaN, which click's range accepts."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Listed(_ParamType):
    """Type of an option that is a tuple, given as values separated by commas.

    Args:
        name: metavar in `--help`.
        takes: the accepted values, in words, for error messages.
        parse: parses one value; raises ValueError.
        count: required number of values; None for any.
    """

    def __init__(self, name: str, takes: str, parse: Callable[[str], Any], count: int | None = None) -> None:
        self.name, self._takes, self._parse, self._count = name, takes, parse, count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a tuple; None for an empty list of names."""
        if isinstance(value, tuple):
            return value
        if not value and self._parse is str:
            return None
        parts = [part.strip() for part in value.split(",")]
        try:
            if self._count not in (None, len(parts)):
                raise ValueError("another number of them")
            return tuple(map(self._parse, parts))
        except ValueError as error:
            option = param.opts[0] if param is not None else self.name
            raise UsageError(f"{option} takes {self._takes}, not {value!r}.") from error

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the name unchanged."""
        return self.name


def _digits(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    if (number := _digits(text, _LARGEST_COUNT)) == 0:
        raise ValueError(text)
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


PATH = click.Path(path_type=Path)
POINTS = Number(0.0, 100.0)
SHARE = Number(0.0, 1.0)
SECONDS = Number(above=True, most=1e6)
MINUTES = Number(above=True, most=1e4)
GOLDEN = Count(0, 1024)
NAMES = Listed("A,B,C", "names", str)
COUNTS = Listed("N[,N…]", "positive numbers, N or N,N", _positive)
SEEDS = Listed("N,N…", "whole numbers, as 0,1,2", lambda text: _digits(text, _LARGEST_SEED))
CHANNELS = Listed("R,G,B", "three numbers R,G,B", _finite, 3)

WEIGHTS_HELP = "Set of weights to read, such as state_dict_ema.  [default: the network's own]"
FACTORY_HELP = "Code of your own network that the checkpoint is of: a function that makes it."
IMAGE_SIZE_HELP = "Input size in pixels, for a checkpoint that leaves it open.  [default: its own, else 224]"


def json_option(what: str = "result") -> Callable[[Decorated], Decorated]:
    """Add --json, which the command gets as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print the {what} as JSON.")


def classes_option(whose: str = "a checkpoint that has none") -> Callable[[Decorated], Decorated]:
    """Add --classes, a tuple of names or None."""
    return click.option("--classes", type=NAMES, help=f"Class names, for {whose}.")


def batch_option(default: str | None = None) -> Callable[[Decorated], Decorated]:
    """Add --batch, the batch size: 8 by default, or None if `default` describes what that means."""
    if default is not None:
        return click.option("--batch", type=Count(), help=f"Batch size.  [default: {default}]")
    return click.option("--batch", type=Count(), default=8, show_default=True, help="Batch size.")


def seed_option(whose: str, default: int = 0) -> Callable[[Decorated], Decorated]:
    """Add --seed."""
    return click.option("--seed", type=Seed(), default=default, show_default=True, help=f"Random seed for {whose}.")


def images_option(text: str, *, required: bool = False) -> Callable[[Decorated], Decorated]:
    """Add --images, a folder."""
    return click.option("--images", type=PATH, required=required, help=text)


def force_option(what: str) -> Callable[[Decorated], Decorated]:
    """Add --force."""
    return click.option("--force", is_flag=True, help=f"Replace {what}.")


def golden_option(text: str) -> Callable[[Decorated], Decorated]:
    """Add --golden, the number of golden images."""
    return click.option("--golden", type=GOLDEN, default=4, show_default=True, help=text)


def metric_option(function: Decorated) -> Decorated:
    """Add --metric, the metric that a drop is measured in."""
    kinds = click.Choice(["accuracy", "balanced-accuracy"])
    return click.option(
        "--metric", type=kinds, default="accuracy", show_default=True, help="What a drop is measured in."
    )(function)


def device_option(function: Decorated) -> Decorated:
    """Add --device, the device to train on."""
    return click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)(
        function
    )


def page_option(function: Decorated) -> Decorated:
    """Add --report, the path of an HTML page."""
    return click.option("--report", type=PATH, metavar="FILE.html", help="Write an HTML report.")(function)


def factory_option(function: Decorated) -> Decorated:
    """Add --model, the factory of a network of the user's own, which the command gets as `factory`."""
    return click.option("--model", "factory", metavar="MODULE:FUNCTION", help=FACTORY_HELP)(function)


def search_here() -> None:
    """Let Python look for modules in the current folder too, after all other places, so that it hides none of them."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def search_for(configurations: Path) -> None:
    """Do as `search_here` where a TOML file of configurations names a network of the user's own."""
    with suppress(OSError, UnicodeDecodeError):
        if re.search(r"""^\s*model\s*=\s*["'][^"']*:""", configurations.read_text(encoding="utf-8"), re.MULTILINE):
            search_here()


def own_model() -> tuple[str, ...]:
    """Return the running command's --model as words for the next one, if it names a network of the user's own."""
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.params
    name = str(given.get("factory") or given.get("model") or "")
    return ("--model", name) if _is_factory(name) else ()


def _is_factory(value: object) -> bool:
    return re.fullmatch(r"[\w.]+:[\w.]+", str(value)) is not None


def checkpoint_options(function: Decorated) -> Decorated:
    """Add --weights and --image-size, for checkpoints that don't record them, and --model; see `factory_option`."""
    function = factory_option(function)
    function = click.option("--image-size", type=click.IntRange(min=1), help=IMAGE_SIZE_HELP)(function)
    return click.option("--weights", metavar="KEY", help=WEIGHTS_HELP)(function)
