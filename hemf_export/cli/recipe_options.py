"""Options of a training recipe: one for each field, and `--recipe` for a file of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from hemf_export.api.recipes import CHOICES, GROUPS, NAMED, Recipe, resolve
from hemf_export.cli.options import Count, Number, Seed

DEFAULTS = Recipe().to_dict()
SECTIONS = {f"{group} (recipe)": names for group, names in GROUPS.items()}  # of --help
_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images per weight update, over all processes.",
    "accumulation_steps": "Steps of gradient accumulation that a batch is split into, to fit into memory.",
    "learning_rate": "Peak learning rate, after the warm-up.",
    "final_learning_rate": "Learning rate at the end of the cosine.",
    "warmup_epochs": "Epochs of linear warm-up; 0 for none.",
    "warmup_start": "Share of the learning rate at the start of the warm-up.",
    "seed": "Random seed for weights, order and augmentation.",
    "weight_decay": "Weight decay of AdamW; not on biases and norms.",
    "gradient_clip": "Largest norm of the gradients; 0 for none.",
    "drop_path": "Stochastic depth: rate of the deepest residual branch.",
    "ema_decay": "Evaluate and keep a running average of the weights; 0.999, say; 0 for none.",
    "sync_batch_norm": "Synchronize BatchNorm statistics over all processes.",
    "loss": "Cross-entropy, or one for unequal classes.",
    "label_smoothing": "Share of the target spread over all classes.",
    "class_balanced_beta": "Class-balanced loss: 0 weighs all classes equally, close to 1 by 1 / images.",
    "focal_gamma": "Focal loss: exponent that lowers the weight of images classified well.",
    "logit_adjustment": "Logit-adjusted loss: 0 for none, 1 for balanced accuracy.",
    "distillation_weight": "Share of the loss that comes from --teacher.",
    "temperature": "Temperature of the teacher's and the student's softmax.",
    "augmentation": "Crop and flip; rand: colours and geometry as well.",
    "rand_operations": "RandAugment: operations per image.",
    "rand_magnitude": "RandAugment: magnitude, 0 to 30.",
    "mixup_alpha": "MixUp; 0.2, say; 0 for none.",
    "cutmix_alpha": "CutMix; 1.0, say; 0 for none. With both, one of them each batch.",
    "sampling": "Each image once, or each class equally often.",
}


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--recipe` (parameter `recipe_source`), and an option for each field with its name, default and type."""
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
    text = f"TOML file of the recipe's fields, {', '.join(NAMED)}, or a network's name for its own. Flags win."
    return click.option("--recipe", "recipe_source", metavar="FILE|NAME", help=text)(function)


def given_recipe(context: click.Context, source: str | None, fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a command with `recipe_options`: the paper's, overridden by `source`, then by options given.

    Raises:
        BadInputError, UsageError: see `train.recipe_file.resolve`.
    """
    given = {name for name in fields if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return resolve(source, {name: fields[name] for name in given})
