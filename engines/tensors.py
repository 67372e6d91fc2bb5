"""An engine's I/O tensors, and the batch sizes that its optimization profiles take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hemf_export.engines.options import BatchProfile
from hemf_export.files.errors import BadInputError

if TYPE_CHECKING:
    from tensorrt_bindings import ICudaEngine

# TensorRT's names of the types that an I/O tensor of an image classifier may have.
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
        dtype: PyTorch's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def require(self, batch: torch.Tensor) -> None:
        """Check that a batch fits this tensor.

        Raises:
            BadInputError: its shape or type differs; both are in the message.
        """
        if batch.ndim == 0 or tuple(batch.shape[1:]) != self.shape or batch.dtype != self.dtype:
            raise BadInputError(
                f"The engine's input {self.name} takes (N, {', '.join(map(str, self.shape))}) {_plain(self.dtype)}, "
                f"not ({', '.join(map(str, batch.shape))}) {_plain(batch.dtype)}.",
                "Take the preprocessing of its manifest.",
            )


@dataclass(frozen=True)
class Interface:
    """The I/O tensors of an engine and its batch sizes.

    Args:
        input: the images.
        output: the logits.
        profiles: batch sizes of each optimization profile, in order.
    """

    input: TensorInfo
    output: TensorInfo
    profiles: tuple[BatchProfile, ...]

    @property
    def smallest(self) -> int:
        """The smallest batch that can be run."""
        return min(profile.minimum for profile in self.profiles)

    @property
    def largest(self) -> int:
        """The largest batch that can be run at once."""
        return max(profile.maximum for profile in self.profiles)

    def profile(self, count: int) -> int | None:
        """Index of the first profile that takes `count` images."""
        for index, profile in enumerate(self.profiles):
            if profile.minimum <= count <= profile.maximum:
                return index
        return None

    def parts(self, count: int) -> list[int]:
        """Divide `count` images into batches that each fit a profile: largest ones and a rest, or else even ones.

        Raises:
            BadInputError: it can't be divided; the message has the range.
        """
        if sizes := self._parts(count):
            return sizes
        ranges = " and ".join(
            f"{one.minimum} to {one.maximum}" if one.minimum < one.maximum else str(one.minimum)
            for one in self.profiles
        )
        raise BadInputError(
            f"A batch of {count} is outside the engine's profile: it takes {ranges}.",
            "Fill the batch up, or build with other sizes: `build_engine(batch='MIN:OPT:MAX')`.",
        )

    def filled(self, count: int) -> int:
        """The smallest number of images from `count` on that can be run: a batch has to be padded to that."""
        return next(size for size in range(max(1, count), count + self.largest + 1) if self._parts(size))

    def _parts(self, count: int) -> list[int]:
        """Divide `count` images; empty where that can't be done."""
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
    """Read the I/O tensors and profiles of an `ICudaEngine`.

    Raises:
        BadInputError: it has not exactly one input and one output, or one of an unsupported type.
    """
    names: Sequence[str] = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name).name for name in names}
    inputs, outputs = ([name for name in names if modes[name] == mode] for mode in ("INPUT", "OUTPUT"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInputError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    tensors = []
    for name in (*inputs, *outputs):
        kind, shape = engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))
        if kind not in _TYPES:
            raise BadInputError(f"{path}: its tensor {name} is of type {kind}, which is not supported.")
        tensors.append(TensorInfo(name, tuple(int(size) for size in shape[1:]), _TYPES[kind]))
    profiles = []
    for index in range(engine.num_optimization_profiles):
        sizes = engine.get_tensor_profile_shape(inputs[0], index)
        profiles.append(BatchProfile(*(int(size[0]) for size in sizes)))
    return Interface(tensors[0], tensors[1], tuple(profiles))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
