"""The layer of a network whose output is the last feature map before the classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hemf_export.files.errors import BadInputError, UsageError, did_you_mean
from hemf_export.networks.network import Network


@dataclass(frozen=True)
class FeatureLayer:
    """A layer, and how its output is viewed as a feature map.

    Args:
        name: the module's name in the network.
        view: its output → (N, C, H, W).
    """

    name: str
    view: Callable[[Tensor], Tensor]

    def require_tensor(self, output: object) -> Tensor:
        """Return the layer's output; raise BadInputError where it is no feature map."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise BadInputError(f"The layer {self.name} gives a {type(output).__name__}, not a feature map.", _HINT)
        shape = tuple(self.view(output).shape)
        if len(shape) != 4:
            raise BadInputError(f"The layer {self.name} gives a tensor {shape}, not a feature map (N, C, H, W).", _HINT)
        return output


_HINT = "Name another feature layer: one whose output is (N, C, H, W), or tokens of a square map (N, H*W, C)."


def feature_layer(model: nn.Module, name: str | None = None) -> FeatureLayer:
    """Find a network's feature layer: the one that it names itself, or `name`.

    Args:
        model: a registered network, or any other.
        name: a module's name; None for the network's own choice.

    Raises:
        UsageError: no such module, or none was named for a network that doesn't name one itself.
    """
    if name is None:
        if isinstance(model, Network):
            return FeatureLayer(model.feature_layer, model.feature_map)
        raise UsageError(
            f"A network of your own ({type(model).__name__}) doesn't say which layer's output is its last feature map.",
            f"Name it with `feature_layer`; its modules: {', '.join(name for name, _ in model.named_children())}.",
        )
    known = dict(model.named_modules())
    if name not in known or not name:
        raise UsageError(f"The network has no module {name!r}.", did_you_mean(name, [one for one in known if one]))
    return FeatureLayer(name, as_map)


def as_map(output: Tensor) -> Tensor:
    """View tokens of a square map, a class token in front or not, as a feature map; return others unchanged.

    (N, H*W, C) or (N, 1 + H*W, C) → (N, C, H, W).
    """
    if output.ndim != 3:
        return output
    tokens = output.shape[1]
    for first in (0, 1):
        side = math.isqrt(tokens - first)
        if side > 1 and side * side == tokens - first:
            return output[:, first:].transpose(1, 2).reshape(len(output), -1, side, side)
    return output
