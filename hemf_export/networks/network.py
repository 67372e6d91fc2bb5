"""A network's description of itself: all that training, export, heatmaps and reports need to know of its inside.

A `Family` is one architecture in its sizes; `networks.registry` lists them. A `Network` is the module that a family
builds. A network of a user's own is any `nn.Module`; functions of this module say what holds for it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.networks import count
from hemf_export.networks.configuration import WHOLE, NetworkConfig
from hemf_export.networks.count import Count


class Network(nn.Module, ABC):
    """An image classifier of a registered family.

    In evaluation mode `forward` maps images (N, 3, H, W), normalized, to logits (N, classes). In training mode a
    network with several classifiers may return a tuple of their logits; its loss is the mean over them, and its
    prediction their sum.
    """

    config: NetworkConfig

    @property
    @abstractmethod
    def feature_layer(self) -> str:
        """Name of the module whose output is the last feature map before the classifier, for heatmaps."""

    def feature_map(self, output: Tensor) -> Tensor:
        """View the output of `feature_layer` as a feature map (N, C, H, W)."""
        return output

    def fold(self) -> None:
        """Fold constants and BatchNorms into adjacent products, in place, in evaluation mode.

        The network is for inference only afterwards.
        """

    def hold_constants(self) -> None:
        """Compute what depends on parameters alone, once, for inference; part of `fold`."""

    def saved_multiply_adds(self) -> Mapping[str, int]:
        """Multiply-adds of layers for one image that the authors' code does and this one saves, by first module."""
        return {}

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay applies to a parameter: as a rule, not to biases, norms and other vectors."""
        return parameter.ndim > 1


_BUFFER = re.compile(r"\.(running_mean|running_var|num_batches_tracked|relative_position_index)$")


def _nothing(config: Any) -> dict[str, tuple[int, ...]]:
    return {}


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off, on a device that has it."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def fold(model: nn.Module) -> None:
    """Fold a network for inference, in place, if it is one of ours; see `Network.fold`."""
    if isinstance(model, Network):
        model.fold()


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide a network's parameters into those with weight decay and those without; see `Network.decays`."""
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = model.decays(name, parameter) if isinstance(model, Network) else parameter.ndim > 1
        (with_decay if decays else without).append(parameter)
    return with_decay, without


_CONTIGUOUS = "_hemf_export_contiguous"  # attribute of networks that don't run in channels-last memory


def keep_contiguous(model: nn.Module) -> None:
    """Mark a network that doesn't run in channels-last memory; see `memory_format`."""
    setattr(model, _CONTIGUOUS, True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Memory format of a network's weights and images: channels-last, unless it is marked as unable to."""
    return torch.contiguous_format if getattr(model, _CONTIGUOUS, False) else torch.channels_last


@dataclass(frozen=True)
class Layout:
    """The checkpoints of a network's authors: how they are recognized, and what in them is unused.

    Args:
        marks: regular expressions; a state dict is of this family if each matches the beginning of some key.
        roots: first parts of their names, and of ours.
        heads: names of the classifiers' Linears, in our state dict.
        unused: shapes of the tensors in their file that take no part in a forward pass, by name, for a configuration.
            They are dropped by name.
        duplicates: beginnings of the names of unused tensors that the file has under another name too.
        names: all names of our state dict, where they are known to be the same in every file.
    """

    marks: tuple[str, ...]
    roots: frozenset[str]
    heads: tuple[str, ...] = ("head",)
    unused: Callable[[Any], Mapping[str, tuple[int, ...]]] = _nothing
    duplicates: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    def unused_parameters(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Return those of the unused tensors that are parameters: no buffers, and no duplicates."""
        return {
            name: shape
            for name, shape in self.unused(config).items()
            if not _BUFFER.search(name) and not name.startswith(self.duplicates)
        }

    def recognizes(self, keys: Sequence[str]) -> bool:
        """Whether keys are those of this family, whole or not."""
        return all(any(re.match(mark, key) for key in keys) for mark in self.marks)


@dataclass(frozen=True)
class Family:
    """An architecture: its configurations by name, and how a network is built, initialized and read.

    Args:
        name: as saved in files.
        title: name, authors and source, for people.
        config: class of its configurations.
        sizes: registered configurations by name.
        network: builds the module, with PyTorch's own initial weights.
        initialize: sets every weight in place as its authors' code does, from torch's global generator.
        layout: its authors' checkpoints.
        recipe: fields of its published recipe that differ from HEMF's (`train.recipe`).
    """

    name: str
    title: str
    config: type[NetworkConfig]
    sizes: Mapping[str, NetworkConfig]
    network: Callable[[Any], nn.Module]
    initialize: Callable[[Any], None]
    layout: Layout
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def infer(self, state: Mapping[str, Tensor], image_size: int | None = None) -> NetworkConfig:
        """Infer the configuration of a state dict in our layout: the registered size with the most tensors in common.

        Args:
            state: tensors by name, from whose shapes the image size can't be inferred.
            image_size: input size in pixels; None for the size's own.

        Raises:
            BadInputError: the classifier is missing, or no network takes such images.
        """
        weight = f"{self.layout.heads[0]}.weight"
        if weight not in state or state[weight].ndim != 2:
            raise BadInputError(f"Not a whole state dict of {self.name}: {weight} is missing or has no shape.")
        classes = len(state[weight])
        candidates = [dataclasses.replace(size, num_classes=classes) for size in self.sizes.values()]

        def common(config: NetworkConfig) -> int:
            shapes = self.shapes(config)
            matching = sum(name in state and state[name].shape == shape for name, (shape, _) in shapes.items())
            return matching - sum(name not in shapes for name in state)

        found = max(candidates, key=common)
        return dataclasses.replace(found, image_size=image_size or found.image_size)

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Convert the authors' state dict to our names and shapes, which are by default the same.

        Args:
            state: tensors by their names, without prefixes; ours are returned as they are.

        Returns:
            The converted state dict, and the names of the unused tensors that were dropped.

        Raises:
            BadInputError: tensors that are not the network's.
        """
        unused = self.layout.unused(self.infer(state))
        kept = {name: value for name, value in state.items() if name not in unused}
        return kept, [name for name in state if name in unused]

    def describe(self, config: Any) -> str:
        """Name the architecture and its authors, for people."""
        return self.title

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of its reduced networks, the whole one included."""
        return (WHOLE,)

    def vary(self, config: Any, variant: str) -> NetworkConfig:
        """Change a configuration to one of `variants`.

        Raises:
            BadInputError: no such variant.
        """
        if variant not in self.variants:
            raise BadInputError(
                f"No variant of {config.name} is named {variant!r}.",
                did_you_mean(variant, self.variants) if len(self.variants) > 1 else "It has none: leave `variant` out.",
            )
        return cast(NetworkConfig, config)

    def variant_of(self, config: Any) -> str | None:
        """Name of the variant that a configuration is; None for none."""
        return WHOLE

    def count(self, config: Any) -> dict[str, Count]:
        """Count parameters and multiply-adds by part, without allocating them."""
        with torch.device("meta"):
            model = self.network(config).eval()
        unused = sum(math.prod(shape) for shape in self.layout.unused_parameters(config).values())
        if not isinstance(model, Network):
            return count.by_part(model, config.image_size, unused)
        model.hold_constants()
        return count.by_part(model, config.image_size, unused, model.saved_multiply_adds())

    @property
    def paper_counting(self) -> str:
        """Explain in a sentence how published counts, `Count.paper_parameters` and `Count.paper`, are made."""
        return (
            "Published way: parameters with those in the authors' file that take no part; multiply-adds of "
            "convolutions and linear layers alone, without the products of attention."
        )

    def table_3(self, config: Any) -> tuple[Mapping[str, Any], ...]:
        """Recount the paper's Table 3, for a network that it lists; nothing for any other."""
        return ()

    def heads(self, config: Any) -> tuple[str, ...]:
        """Name the classifiers' layers, whose tensors depend on the number of classes."""
        return self.layout.heads

    def check_training(self, config: Any) -> None:
        """Raise BadInputError where a network can't be trained; those of registered sizes can."""

    def skips_parameters(self, config: Any) -> bool:
        """Whether some parameters take no part in a forward pass in training mode."""
        return False

    def build_empty(self, config: NetworkConfig) -> nn.Module:
        """Build a network whose weights are about to be replaced: their memory is uninitialized."""
        with NoInitialization():
            return self.network(config)

    def shapes(self, config: NetworkConfig) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Shapes and types of a network's tensors, by name."""
        return _shapes(self.network, config)


class NoInitialization(TorchFunctionMode):
    """Skip the initialization of new parameters, which would take longer than reading the file."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


@functools.lru_cache(maxsize=32)
def _shapes(network: Callable[[Any], nn.Module], config: NetworkConfig) -> dict[str, tuple[torch.Size, torch.dtype]]:
    with torch.device("meta"):
        model = network(config)
    return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
