"""Options of every command that reads a checkpoint: what a user says of it that its file leaves open."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from hemf.reading import Reading

WEIGHTS_HELP = "Which weights of a checkpoint that has several: state_dict_ema.  [default: the network's own]"
IMAGE_SIZE_HELP = "Pixels of the input, for a checkpoint that doesn't say it.  [default: its own, else 224]"


def reading_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --weights and --image-size to a command, which gets them as `reading`."""

    @click.option("--weights", metavar="KEY", help=WEIGHTS_HELP)
    @click.option("--image-size", type=click.IntRange(min=1), help=IMAGE_SIZE_HELP)
    @functools.wraps(function)
    def call(*arguments: Any, weights: str | None, image_size: int | None, **others: Any) -> None:
        function(*arguments, **others, reading=Reading(weights, image_size))

    return call
