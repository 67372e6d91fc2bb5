"""Configuration that every network has: a name, the number of classes, the image size. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from hemf_export.files.errors import BadInputError, did_you_mean

# Upper limits: a file's header beyond them asks for memory or time that no network of this kind needs.
LARGEST_CLASSES = 100_000
LARGEST_IMAGE = 1024
LARGEST_WEIGHTS = 400_000_000  # of the products over channels; published networks have up to 334 M
LARGEST_SCORES = 500_000_000  # logits of one attention for one image

STAGES = 4  # of a `StagedConfig`
WHOLE = "full"  # variant that every network has: all of it

Config = TypeVar("Config", bound="NetworkConfig")


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that determines the tensors of a network. Each family has a subclass with its own fields.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels, a multiple of the family's `STRIDE`.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    FAMILY: ClassVar[str] = ""  # name of the family, as saved in files
    STRIDE: ClassVar[int] = 32  # the image size is a multiple of it

    name: str
    num_classes: int = 7
    image_size: int = 224

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadInputError(f"The name of a configuration must be text, not {self.name!r}.")
        self.require_positive("num_classes", LARGEST_CLASSES)
        self.require_positive("image_size", LARGEST_IMAGE)
        if self.image_size % self.STRIDE:
            below = self.image_size // self.STRIDE * self.STRIDE
            raise BadInputError(
                f"image_size must be a multiple of {self.STRIDE}, not {self.image_size}.",
                hint=f"The nearest are {below or self.STRIDE} and {below + self.STRIDE}.",
            )

    def require_positive(self, name: str, limit: int) -> None:
        """Raise BadInputError unless the field `name`, a number or a tuple of numbers, is 1 to `limit` throughout."""
        value = getattr(self, name)
        for one in value if isinstance(value, tuple) and value else (value,):
            if not isinstance(one, int) or isinstance(one, bool) or one < 1:
                raise BadInputError(f"{name} must be a positive integer, not {one!r}.")
            if one > limit:
                raise BadInputError(f"{name} must be at most {limit:,}, not {one:,}.")

    def require_at_most(self, limit: int, count: int, what: str) -> None:
        """Raise BadInputError where the network would have more than `limit` of something; `what` names it."""
        if count > limit:
            raise BadInputError(f"{self.name} would have {count:,} {what}, more than {limit:,}.")

    def require_numbers(self, name: str, count: int) -> None:
        """Raise BadInputError unless the field `name` is a tuple of `count` numbers."""
        value = getattr(self, name)
        if not isinstance(value, tuple) or len(value) != count:
            raise BadInputError(f"{name} must be {count} numbers, not {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints and manifests."""
        values = dataclasses.asdict(self).items()
        return {"family": self.FAMILY, **{name: list(v) if isinstance(v, tuple) else v for name, v in values}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave; an unknown key is an error that names the most similar one."""
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in values.items() if name != "family"}
        for key in given:
            if key not in known:
                raise BadInputError(
                    f"Unknown key {key!r} in a configuration of {cls.FAMILY}.", did_you_mean(key, known)
                )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**plain)


def by_name(*configs: Config) -> dict[str, Config]:
    """Index configurations by their names."""
    return {config.name: config for config in configs}


@dataclass(frozen=True)
class StagedConfig(NetworkConfig):
    """Configuration of a network of four stages, each with twice the channels of the one before.

    Args:
        name: label of the configuration, kept in checkpoints and reports.
        num_classes: outputs of the classifier.
        image_size: height and width of the input in pixels.
        width: channels C of stage 1; stage i has C * 2**(i - 1).
        depths: number of blocks in each of the four stages.

    Raises:
        BadInputError: a value that is not valid, alone or with the others.
    """

    LARGEST_WIDTH: ClassVar[int] = 256
    LARGEST_DEPTH: ClassVar[int] = 64
    MOST_WEIGHTS: ClassVar[int] = LARGEST_WEIGHTS

    width: int = 128
    depths: tuple[int, ...] = (2, 2, 2, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("width", self.LARGEST_WIDTH)
        self.require_positive("depths", self.LARGEST_DEPTH)
        self.require_numbers("depths", STAGES)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of stages 1 to 4."""
        return tuple(self.width * 2**stage for stage in range(STAGES))

    def require_weights(self, by_block: int, by_stage: int = 0) -> None:
        """Raise BadInputError where the products over channels have too many weights.

        Args:
            by_block: weights of a block, as a multiple of its stage's channels squared.
            by_stage: weights of a stage beside its blocks, as such a multiple.
        """
        weights = sum(
            (by_block * depth + by_stage) * channels**2
            for channels, depth in zip(self.stage_channels, self.depths, strict=True)
        )
        self.require_at_most(self.MOST_WEIGHTS, weights, "weights")
