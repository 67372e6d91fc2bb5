"""Initial weights from a checkpoint: of ImageNet, other classes, or an earlier run. Its classifier is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.reading import Reading
from hemf_export.checkpoints.state_dict import first
from hemf_export.files import names
from hemf_export.files.errors import BadInputError
from hemf_export.networks import registry
from hemf_export.networks.configuration import NetworkConfig


@dataclass(frozen=True)
class InitialWeights:
    """Tensors that a training starts from.

    Args:
        file: name of the checkpoint.
        sha256: its hash.
        network: name of its network.
        taken: tensors by their names.
        left: names of its tensors that were left out: those of its classifier, if that is of other classes.
        unused: names of tensors in its authors' layout that take no part.
    """

    file: str
    sha256: str
    network: str
    taken: Mapping[str, Tensor] = field(repr=False)
    left: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> None:
        """Load the tensors into `model`, in place; all others keep their values."""
        model.load_state_dict({**model.state_dict(), **self.taken})

    def describe(self) -> str:
        """Say what was taken and what was left, in one sentence."""
        left = f"; left: {first(self.left)}, of {self.network}'s own classes" if self.left else "; none was left"
        unused = f"; {len(self.unused)} that take no part" if self.unused else ""
        return f"Initial weights from {self.file}: {len(self.taken)} tensors taken{left}{unused}."

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for a checkpoint's provenance."""
        return {"file": self.file, "sha256": self.sha256, "taken": len(self.taken), "left": list(self.left)}


def load(path: Path, config: NetworkConfig, classes: Sequence[str], reading: Reading) -> InitialWeights:
    """Read initial weights for a network of the same architecture.

    Its classifier is taken where the file says that it has the same classes in the same order, and left otherwise.

    Args:
        path: a checkpoint, of any number of classes.
        config: the network to be trained.
        classes: its classes.
        reading: how the checkpoint is read.

    Raises:
        BadInputError: see `checkpoints.checkpoint.load`; or its tensors are not this network's.
    """
    saved = checkpoint.load(path, reading=reading)
    saved.check_finite()
    family = registry.family_of(config)
    heads = family.heads(config)
    expected = family.shapes(config)
    known = "classes" not in saved.provenance.get("assumed", {})
    same_head = known and names.same(saved.classes, classes)
    taken: dict[str, Tensor] = {}
    left: list[str] = []
    other: list[str] = []
    for name, value in saved.state.items():
        if _is_of(name, heads) and not same_head:
            left.append(name)
        elif name in expected and expected[name][0] == value.shape:
            taken[name] = value
        else:
            other.append(name)
    lacking = [name for name in expected if name not in taken and not _is_of(name, heads)]
    if other or lacking:
        raise BadInputError(
            f"{path} has the weights of {saved.config.name} ({saved.config.image_size} pixels), which are not those of "
            f"{config.name} ({config.image_size} pixels): {len(other) + len(lacking)} tensors differ, "
            f"{first([*other, *lacking])}.",
            "Initial weights are of the same network, except for its classifier: name that network with `model`.",
        )
    return InitialWeights(path.name, saved.sha256, saved.config.name, taken, tuple(left), saved.dropped)


def _is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether a tensor is one of these layers', or is itself named."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
