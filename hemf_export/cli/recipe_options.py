"""The flags of a training recipe: one for each field, and `--recipe` for a file of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from hemf_export.cli.options import Count, Number, Seed
from hemf_export.train.recipe import CHOICES, Recipe
from hemf_export.train.recipe_file import GROUPS, NAMED, resolve

SECTIONS = {f"{group} (recipe)": names for group, names in GROUPS.items()}  # of --help
_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images that change the weights once, over all processes.",
    "accumulation_steps": "Pieces that a batch is cut into, to fit into memory.",
    "learning_rate": "Peak, after the warm-up.",
    "final_learning_rate": "End of the cosine.",
    "warmup_epochs": "Linear; 0 for none.",
    "warmup_start": "Share of the rate at the start.",
    "seed": "Of the weights, the order, and all else that is drawn.",
    "weight_decay": "AdamW's; not on biases and norms.",
    "gradient_clip": "Largest norm of the gradients; 0 for none.",
    "drop_path": "Stochastic depth: rate of the deepest residual branch.",
    "ema_decay": "Evaluate and keep a running average of the weights; 0.999, say; 0 for none.",
    "sync_batch_norm": "BatchNorm over all processes, not each its own part.",
    "loss": "Cross-entropy, or one for unequal classes.",
    "label_smoothing": "Share of the target spread over all classes.",
    "class_balanced_beta": "Of class-balanced: 0 weighs all classes alike, near 1 by 1 / images.",
    "focal_gamma": "Of focal: how little images that are right already weigh.",
    "logit_adjustment": "Of logit-adjusted: 0 for none, 1 for balanced accuracy.",
    "distillation_weight": "Share of the loss that comes from --teacher.",
    "temperature": "Softens the teacher's and the student's classes.",
    "augmentation": "Crop and flip; rand: colours and geometry as well.",
    "rand_operations": "Of rand, for each image.",
    "rand_magnitude": "Of rand, 0 to 30.",
    "mixup_alpha": "MixUp; 0.2, say; 0 for none.",
    "cutmix_alpha": "CutMix; 1.0, say; 0 for none. With both, one of them each batch.",
    "sampling": "Each image once, or each class equally often.",
}


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--recipe` (parameter `recipe_source`), and a flag for each field with its name, default and type."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    for name in reversed([name for names in GROUPS.values() for name in names]):
        flag, default = "--" + name.replace("_", "-"), defaults[name]
        settings: dict[str, Any] = {"default": default, "show_default": True, "help": _HELP[name]}
        if name in CHOICES:
            settings["type"] = click.Choice(CHOICES[name])
        elif isinstance(default, bool):
            flag = f"{flag}/--no-{name.replace('_', '-')}"
        elif name == "seed":
            settings["type"] = Seed()
        else:
            settings["type"] = Count(0) if isinstance(default, int) else Number()
        function = click.option(flag, name, **settings)(function)
    text = f"TOML file of the recipe's fields, or {', '.join(NAMED)}. Flags win over it."
    return click.option("--recipe", "recipe_source", metavar="FILE|NAME", help=text)(function)


def given_recipe(context: click.Context, source: str | None, fields: Mapping[str, Any]) -> Recipe:
    """The recipe of a command with `recipe_options`: the paper's, changed by `source`, changed by flags on the line.

    Raises:
        BadInputError, UsageError: see `train.recipe_file.resolve`.
    """
    given = {name for name in fields if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return resolve(source, {name: fields[name] for name in given})
