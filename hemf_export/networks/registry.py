"""The registered networks: names → configurations, state dicts → families."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.networks import count, factory, own
from hemf_export.networks.biformer import FAMILY as BIFORMER
from hemf_export.networks.came import FAMILY as CAME
from hemf_export.networks.configuration import WHOLE, NetworkConfig
from hemf_export.networks.conformer import FAMILY as CONFORMER
from hemf_export.networks.convnext import FAMILY as CONVNEXT
from hemf_export.networks.count import Count
from hemf_export.networks.focalnet import FAMILY as FOCALNET
from hemf_export.networks.hemf.family import FAMILY as HEMF
from hemf_export.networks.hifuse import FAMILY as HIFUSE
from hemf_export.networks.network import Family, memory_format
from hemf_export.networks.own import OWN
from hemf_export.networks.pervit import FAMILY as PERVIT
from hemf_export.networks.uniformer import FAMILY as UNIFORMER

FAMILIES: dict[str, Family] = {
    family.name: family for family in (HEMF, HIFUSE, CAME, CONVNEXT, FOCALNET, CONFORMER, PERVIT, UNIFORMER, BIFORMER)
}
SIZES: dict[str, NetworkConfig] = {name: size for family in FAMILIES.values() for name, size in family.sizes.items()}
_ALL = {**FAMILIES, OWN.name: OWN}


def registered(
    name: str, *, num_classes: int = 7, image_size: int | None = None, variant: str = WHOLE
) -> NetworkConfig:  # fmt: skip
    """Look up the configuration `name`.

    Args:
        name: name of a registered network, or the factory of one of the user's own, as the user gave it.
        num_classes: outputs of its classifier.
        image_size: input size in pixels; None for its own.
        variant: one of the family's reduced networks.

    Raises:
        BadInputError: no such network or variant, or it doesn't take such images.
    """
    if factory.is_name(name):
        return OWN.vary(own.named(name, num_classes=num_classes, image_size=image_size), variant)
    if name not in SIZES:
        yours = f" A network of your own is {factory.FORM}."
        raise BadInputError(f"No network is named {name!r}.", hint=did_you_mean(name, SIZES) + yours * (":" in name))
    size = SIZES[name]
    size = dataclasses.replace(size, num_classes=num_classes, image_size=image_size or size.image_size)
    return family_of(size).vary(size, variant)


def family_of(config: NetworkConfig) -> Family:
    """Look up the family of a configuration."""
    return _ALL[config.FAMILY]


def count_parts(config: NetworkConfig) -> dict[str, Count]:
    """Count parameters and multiply-adds by part; see `Family.count`."""
    return family_of(config).count(config)


def count_parameters(config: NetworkConfig) -> int:
    """Count the parameters of a network without allocating them."""
    return count.count_parameters(family_of(config).network, config)


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Read a configuration as `NetworkConfig.to_dict` gave it; one that names no family is HEMF's.

    Raises:
        BadInputError: no such family, an unknown key, or a value that is not valid.
    """
    name = values.get("family", HEMF.name)
    if name not in _ALL:
        raise BadInputError(f"No family of networks is named {name!r}.", hint=did_you_mean(str(name), _ALL))
    return _ALL[name].config.from_dict(dict(values))


def recognize(keys: Sequence[str]) -> Family | None:
    """Find the family whose state dict has such keys; None for none."""
    return next((family for family in FAMILIES.values() if family.layout.recognizes(keys)), None)


def build(config: NetworkConfig, *, seed: int | None = None) -> nn.Module:
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
    return model.to(memory_format=memory_format(model))  # type: ignore[call-overload]
