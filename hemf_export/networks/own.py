"""Networks of a user's own: any image classifier in PyTorch, which a factory in the user's code makes.

A checkpoint names its factory, but nothing is imported because a file names it. A configuration that was read from a
file can't be built: `trusted` makes one that can, where the user gave the same name in the call at hand.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hemf_export.files.errors import BadInputError
from hemf_export.networks import count, factory, probing
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.count import Count
from hemf_export.networks.network import Family, Layout, keep_contiguous
from hemf_export.networks.probing import Traits

IMAGE_SIZE = 224  # where nothing says another


@dataclass(frozen=True)
class OwnConfig(NetworkConfig):
    """Configuration of a network of a user's own.

    Args:
        name: name of the function, for reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels.
        factory: `package.module:function`, called with `num_classes=` alone.
        confirmed: whether the user gave that name in this call, so that it may be imported; never saved, nor read.
    """

    FAMILY: ClassVar[str] = "own"
    STRIDE: ClassVar[int] = 1

    factory: str = ""
    confirmed: bool = dataclasses.field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.factory, str) or not factory.is_name(self.factory):
            raise BadInputError(f"The network's factory must be {factory.FORM}, not {self.factory!r:.80}.")

    def to_dict(self) -> dict[str, Any]:
        """See `NetworkConfig.to_dict`."""
        return {name: value for name, value in super().to_dict().items() if name != "confirmed"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """See `NetworkConfig.from_dict`; the result can't be built."""
        if "confirmed" in values:
            raise BadInputError(f"Unknown key 'confirmed' in a configuration of {cls.FAMILY}.")
        return super().from_dict(values)


def named(name: str, *, num_classes: int, image_size: int | None = None) -> OwnConfig:
    """Make the configuration of a network whose factory's name the user gave; nothing is imported yet.

    Raises:
        UsageError: not a factory's name.
    """
    factory.require_name(name)
    label = name.partition(":")[2].rpartition(".")[2]
    return OwnConfig(label, num_classes, image_size or IMAGE_SIZE, name, confirmed=True)


def trusted(config: NetworkConfig, given: str | None) -> NetworkConfig:
    """Compare a configuration that was read from a file with the factory's name that the user gave.

    Args:
        config: any network's; one of a user's own can be built afterwards.
        given: the name; None for none.

    Raises:
        BadInputError: it is a network of a user's own and another name or none was given, or the other way round.
    """
    if not isinstance(config, OwnConfig):
        if given is not None:
            raise BadInputError(f"its network is {config.name}, not one of your own ({given}).", "Leave out `factory`.")
        return config
    if given is None:
        raise BadInputError(
            f"its network is code of a user's own, {config.factory}, which a file can't make run.",
            f"If you know that code, say so: `factory={config.factory!r}`.",
        )
    if given != config.factory:
        raise BadInputError(
            f"its network's code is {config.factory}, not {given}.",
            f"If you know that code, say so: `factory={config.factory!r}`.",
        )
    return dataclasses.replace(config, confirmed=True)


@dataclass(frozen=True)
class OwnFamily(Family):
    """Networks of one factory; without one, of all of them.

    Args:
        factory: the factory's name, as the user gave it.
    """

    factory: str = ""

    def infer(self, state: Mapping[str, Tensor], image_size: int | None = None) -> NetworkConfig:
        """See `Family.infer`; the number of classes follows from the tensors whose shape depends on it."""
        for name, (two, three) in _heads(self.factory).items():
            value = state.get(name)
            if value is None or value.ndim != len(two):
                continue
            axis = next(index for index, size in enumerate(two) if size != three[index])
            step = three[axis] - two[axis]
            classes, rest = divmod(value.shape[axis] - two[axis] + 2 * step, step)
            if rest or classes < 1:
                raise BadInputError(f"{name} {tuple(value.shape)} fits no number of classes of {self.factory}.")
            return named(self.factory, num_classes=classes, image_size=image_size)
        heads = ", ".join(_heads(self.factory)) or "none of its tensors depends on num_classes"
        raise BadInputError(
            f"It has no classifier of {self.factory} ({heads}).", "A state dict of the whole network is needed."
        )

    def describe(self, config: OwnConfig) -> str:
        """See `Family.describe`."""
        return f"a network of its user's own, {config.factory}"

    def count(self, config: OwnConfig) -> dict[str, Count]:
        """See `Family.count`; on the CPU where the network can't be run without its weights."""
        self.shapes(config)  # raises what is wrong with it
        try:
            return super().count(config)
        except Exception:  # noqa: BLE001 - user's code, which ran on the CPU
            return count.by_part(self.network(config).eval(), config.image_size)

    def build_empty(self, config: NetworkConfig) -> nn.Module:
        """See `Family.build_empty`; the user's code initializes what isn't in the state dict."""
        with torch.random.fork_rng(devices=[]):
            return self.network(config)

    def shapes(self, config: NetworkConfig) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """See `Family.shapes`."""
        assert isinstance(config, OwnConfig)
        return _traits(config).shapes

    def heads(self, config: OwnConfig) -> tuple[str, ...]:
        """See `Family.heads`."""
        return tuple(dict.fromkeys(key.rpartition(".")[0] or key for key in _heads(config.factory)))

    def check_training(self, config: Any) -> None:
        """See `Family.check_training`."""
        self.skips_parameters(config)

    def skips_parameters(self, config: Any) -> bool:
        """See `Family.skips_parameters`."""
        _traits(config)
        return _trained(factory.find(config.factory), config)


def build(config: OwnConfig) -> nn.Module:
    """Build the network, with the initial weights that the user's code gives it.

    Raises:
        BadInputError: the user didn't give the factory's name; or anything wrong with it, see `networks.factory` and
            `networks.probing`.
    """
    traits = _traits(config)
    model = factory.make(config.factory, factory.find(config.factory), config.num_classes)
    if not traits.channels_last:
        keep_contiguous(model)
    return model


def family(name: str) -> OwnFamily:
    """Make the family of one factory, whose name the user gave."""
    state = _tensors(factory.find(name), name, 2)
    layout = Layout(marks=(), roots=frozenset(key.partition(".")[0] for key in state), names=frozenset(state))
    return dataclasses.replace(OWN, layout=layout, factory=name)


def _traits(config: OwnConfig) -> Traits:
    if not config.confirmed:  # callers that read files raise a better message first; see `trusted`
        raise BadInputError(f"The code of {config.factory} isn't run, as only a file names it.")
    return _probed(factory.find(config.factory), config)


@functools.lru_cache(maxsize=32)
def _probed(found: Callable[..., object], config: OwnConfig) -> Traits:
    with probing.apart():
        model = factory.make(config.factory, found, config.num_classes)
        return probing.evaluate(config.factory, model, config.num_classes, config.image_size)


@functools.lru_cache(maxsize=32)
def _trained(found: Callable[..., object], config: OwnConfig) -> bool:
    with probing.apart():
        model = factory.make(config.factory, found, config.num_classes)
        return probing.train(config.factory, model, config.num_classes, config.image_size)


@functools.lru_cache(maxsize=32)
def _tensors(found: Callable[..., object], name: str, num_classes: int) -> dict[str, torch.Size]:
    with probing.apart():
        try:
            with torch.device("meta"):  # without memory
                model = factory.make(name, found, num_classes)
        except BadInputError:
            model = factory.make(name, found, num_classes)
    return {key: value.shape for key, value in model.state_dict().items()}


def _heads(name: str) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Shapes with 2 and with 3 classes of the tensors that depend on their number."""
    found = factory.find(name)
    two, three = (_tensors(found, name, classes) for classes in (2, 3))
    pairs = {key: (shape, three[key]) for key, shape in two.items() if key in three}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and len(pair[0]) == len(pair[1])}


OWN = OwnFamily(
    name=OwnConfig.FAMILY,
    title="a network of its user's own",
    config=OwnConfig,
    sizes={},
    network=build,
    initialize=lambda model: None,
    layout=Layout(marks=("(?!)",), roots=frozenset()),
)
