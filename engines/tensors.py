"""An engine's input and output, and the batches that its optimization profiles take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hemf_export.engines.batches import BatchProfile
from hemf_export.files.errors import BadInputError

if TYPE_CHECKING:
    from tensorrt_bindings import ICudaEngine

# TensorRT's names of the types that an input or output of an image classifier may have.
_TYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "UINT8": torch.uint8, "INT8": torch.int8, "INT32": torch.int32,
    "INT64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """An input or output.

    Args:
        name: in the graph.
        shape: without the batch.
        dtype: as PyTorch has it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def require(self, batch: torch.Tensor) -> None:
        """Refuse what isn't a batch of this.

        Raises:
            BadInputError: found against expected.
        """
        if batch.ndim == 0 or tuple(batch.shape[1:]) != self.shape or batch.dtype != self.dtype:
            raise BadInputError(
                f"The engine's input {self.name} takes (N, {', '.join(map(str, self.shape))}) {_plain(self.dtype)}, "
                f"not ({', '.join(map(str, batch.shape))}) {_plain(batch.dtype)}.",
                "Take the preprocessing of its manifest.",
            )


@dataclass(frozen=True)
class Interface:
    """What goes in and out of an engine.

    Args:
        input: of images.
        output: of logits.
        profiles: batches that each optimization profile takes, in order.
    """

    input: TensorInfo
    output: TensorInfo
    profiles: tuple[BatchProfile, ...]

    @property
    def smallest(self) -> int:
        """The least images that can be run."""
        return min(profile.minimum for profile in self.profiles)

    @property
    def largest(self) -> int:
        """The most images that can be run at once."""
        return max(profile.maximum for profile in self.profiles)

    def profile(self, count: int) -> int | None:
        """Index of the first profile that takes `count` images."""
        for index, profile in enumerate(self.profiles):
            if profile.minimum <= count <= profile.maximum:
                return index
        return None

    def parts(self, count: int) -> list[int]:
        """Sizes that each fit a profile, together `count`: as many of the largest as fit, else even ones.

        Raises:
            BadInputError: there are none; the message has the range.
        """
        if found := self._parts(count):
            return found
        ranges = " and ".join(
            f"{one.minimum} to {one.maximum}" if one.minimum < one.maximum else str(one.minimum)
            for one in self.profiles
        )
        raise BadInputError(
            f"A batch of {count} is outside the engine's profile: it takes {ranges}.",
            "Fill the batch up, or build with other sizes: `build_engine(batch='MIN:OPT:MAX')`.",
        )

    def filled(self, count: int) -> int:
        """The least number of images that can be run, `count` or more: to that, a batch has to be filled up."""
        return next(size for size in range(max(1, count), count + self.largest + 1) if self._parts(size))

    def _parts(self, count: int) -> list[int]:
        """Empty where there are none."""
        whole, rest = divmod(count, self.largest)
        for head, left in (([self.largest] * whole, rest), ([], count)):
            if not left:
                return head
            for profile in sorted(self.profiles, key=lambda one: -one.maximum):
                number = -(-left // profile.maximum)
                if number * profile.minimum <= left:
                    return head + [left // number + (index < left % number) for index in range(number)]
        return []


def interface(engine: ICudaEngine, path: object) -> Interface:
    """Read it from an `ICudaEngine`.

    Raises:
        BadInputError: not one input and one output, or a type that we don't feed.
    """
    names: Sequence[str] = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name).name for name in names}
    inputs, outputs = ([name for name in names if modes[name] == mode] for mode in ("INPUT", "OUTPUT"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInputError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    found = []
    for name in (*inputs, *outputs):
        kind, shape = engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))
        if kind not in _TYPES:
            raise BadInputError(f"{path}: its tensor {name} is of type {kind}, which is not fed.")
        found.append(TensorInfo(name, tuple(int(size) for size in shape[1:]), _TYPES[kind]))
    profiles = []
    for index in range(engine.num_optimization_profiles):
        sizes = engine.get_tensor_profile_shape(inputs[0], index)
        profiles.append(BatchProfile(*(int(size[0]) for size in sizes)))
    return Interface(found[0], found[1], tuple(profiles))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
