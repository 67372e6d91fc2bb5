"""Recipes of training: their fields by group, the choices of a field, named recipes, and variants of the network."""

from __future__ import annotations

from hemf_export.networks.configuration import WHOLE
from hemf_export.networks.hemf.variants import VARIANTS
from hemf_export.train.recipe import CHOICES, Recipe
from hemf_export.train.recipe_file import GROUPS, NAMED, resolve

__all__ = ["CHOICES", "GROUPS", "NAMED", "VARIANTS", "WHOLE", "Recipe", "resolve"]
