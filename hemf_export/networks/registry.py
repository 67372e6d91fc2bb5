"""The registered networks: names → configurations, state dicts → families."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.hemf.family import FAMILY as HEMF
from hemf_export.networks.network import Family, Network

FAMILIES: dict[str, Family] = {family.name: family for family in (HEMF,)}
SIZES: dict[str, NetworkConfig] = {name: size for family in FAMILIES.values() for name, size in family.sizes.items()}


def registered(name: str, *, num_classes: int = 7, image_size: int | None = None) -> NetworkConfig:
    """Look up the configuration `name`, for a number of classes and an image size; by default its own.

    Raises:
        BadInputError: no such network, or it doesn't take such images.
    """
    if name not in SIZES:
        raise BadInputError(f"No network is named {name!r}.", hint=did_you_mean(name, SIZES))
    size = SIZES[name]
    return dataclasses.replace(size, num_classes=num_classes, image_size=image_size or size.image_size)


def family_of(config: NetworkConfig) -> Family:
    """Look up the family of a configuration."""
    return FAMILIES[config.FAMILY]


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Read a configuration as `NetworkConfig.to_dict` gave it; one that names no family is HEMF's.

    Raises:
        BadInputError: no such family, an unknown key, or a value that is not valid.
    """
    name = values.get("family", HEMF.name)
    if name not in FAMILIES:
        raise BadInputError(f"No family of networks is named {name!r}.", hint=did_you_mean(str(name), FAMILIES))
    return FAMILIES[name].config.from_dict(dict(values))


def recognize(keys: Sequence[str]) -> Family | None:
    """Find the family whose state dict has such keys; None for none."""
    return next((family for family in FAMILIES.values() if family.layout.recognizes(keys)), None)


def build(config: NetworkConfig, *, seed: int | None = None) -> Network:
    """Build a network with its authors' initialization, in channels-last memory.

    Args:
        config: the network's configuration.
        seed: makes the weights reproducible, and leaves the global random state unchanged; None to use that state.
    """
    family = family_of(config)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = family.network(config)
        family.initialize(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
