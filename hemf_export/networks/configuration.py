"""Configuration that every network has: a name, the number of classes, the image size. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hemf_export.files.errors import BadInputError, did_you_mean

# Upper limits: a file's header beyond them asks for memory or time that no network of this kind needs.
LARGEST_CLASSES = 100_000
LARGEST_IMAGE = 1024
LARGEST_WEIGHTS = 400_000_000  # of the products over channels
LARGEST_SCORES = 500_000_000  # logits of one attention for one image


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
    SIZES: ClassVar[tuple[int, ...]] = ()  # the image sizes that the family can take; empty for all multiples

    name: str
    num_classes: int = 7
    image_size: int = 224

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadInputError(f"The name of a configuration must be text, not {self.name!r}.")
        self.require_positive("num_classes", LARGEST_CLASSES)
        self.require_positive("image_size", LARGEST_IMAGE)
        if self.SIZES and self.image_size not in self.SIZES:
            raise BadInputError(
                f"{self.name} takes images of {' or '.join(map(str, self.SIZES))} pixels alone, not {self.image_size}."
            )
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
        """Raise BadInputError where a network would have a `count` of `what` beyond the limit."""
        if count > limit:
            raise BadInputError(f"{self.name} would have {count:,} {what}, more than {limit:,}.")

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
