"""Trial runs of a network of a user's own, which show what it is before anything depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hemf_export.files.errors import BadInputError
from hemf_export.networks import factory

_IMAGES = 2  # BatchNorm needs more than one value per channel
_SEED = 0
_NOISE = {"rtol": 1e-3, "atol": 1e-4}  # of logits computed twice, in another order of additions


@dataclass(frozen=True)
class Traits:
    """Properties of a network that running it showed.

    Args:
        shapes: shapes and types of its tensors, by name.
        channels_last: whether it runs in channels-last memory; a `view` of a feature map doesn't.
    """

    shapes: Mapping[str, tuple[torch.Size, torch.dtype]]
    channels_last: bool


@contextmanager
def apart() -> Iterator[None]:
    """Build and run networks on the CPU from a fixed seed; the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(_SEED)
        yield


def evaluate(name: str, model: nn.Module, num_classes: int, image_size: int) -> Traits:
    """Run a network in evaluation mode on random images, in both memory formats.

    Args:
        name: its factory's name, for messages.
        model: a new network; it is changed.
        num_classes: the classes that it was made for.
        image_size: height and width of its input in pixels.

    Raises:
        BadInputError: it fails on such images, or doesn't return logits (N, classes), or different ones each time.
    """
    shapes = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    model.eval()
    images = torch.randn(_IMAGES, 3, image_size, image_size)
    with torch.no_grad():
        logits = _logits(name, model, images, num_classes)
        again = _logits(name, model, images, num_classes)
        if not torch.allclose(logits, again, **_NOISE, equal_nan=True):
            raise BadInputError(
                f"{name}: the logits of one image change from call to call, in evaluation mode too.",
                "Something random goes on there: F.dropout needs training=self.training, noise if self.training.",
            )
        try:
            with torch.inference_mode(), factory.blamed("in channels-last memory"):
                other = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
            channels_last = torch.allclose(logits, other, **_NOISE, equal_nan=True)
        except BadInputError:
            channels_last = False
    return Traits(shapes, channels_last)


def train(name: str, model: nn.Module, num_classes: int, image_size: int) -> bool:
    """Run a network in training mode, forwards and backwards.

    Args:
        name: its factory's name, for messages.
        model: a new network; it is changed.
        num_classes: the classes that it was made for.
        image_size: height and width of its input in pixels.

    Returns:
        Whether some of its parameters take no part, which several processes have to know.

    Raises:
        BadInputError: it fails, doesn't return logits (N, classes), has nothing to train, or NaN in it.
    """
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.isnan().any():
            raise BadInputError(f"{name}: {key} holds a NaN.", "Initialize it: torch.empty leaves what was in memory.")
    model.train()
    logits = _logits(name, model, torch.randn(_IMAGES, 3, image_size, image_size), num_classes, " in training mode")
    if not logits.requires_grad:
        raise BadInputError(
            f"{name}: the logits depend on no parameter that can be trained.",
            "Set requires_grad of the parameters that shall be trained, and don't detach the logits.",
        )
    if not torch.isfinite(logits).all():
        raise BadInputError(f"{name}: the logits of a new network are not finite.", "Look at how it is initialized.")
    with factory.blamed(f"{name}: its gradients can't be computed"):
        logits.square().sum().backward()  # type: ignore[no-untyped-call]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return any(parameter.grad is None for parameter in wanted)


def _logits(name: str, model: nn.Module, images: Tensor, num_classes: int, when: str = "") -> Tensor:
    size = images.shape[-1]
    with running(model) as where:
        try:
            with factory.blamed("in it"):
                output = model(images)
        except BadInputError as error:
            reason = error.message.removeprefix("in it: ")
            inside = f" in the module {where[-1]}" if where and where[-1] else ""
            raise BadInputError(
                f"{name} fails on images {tuple(images.shape)}{when}{inside}: {reason}",
                f"Images are RGB, normalized, float32 (N, 3, {size}, {size}); `image_size` sets another size.",
            ) from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        many = f" of {len(output)}" if isinstance(output, tuple | list) else ""
        how = "its `logits`" if hasattr(output, "logits") else "the logits"
        raise BadInputError(
            f"{name}: forward returns a {kind}{many}{when}, not the logits.",
            f"Return {how} alone, a tensor (N, classes): write an nn.Module around the network if it isn't yours.",
        )
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] != len(images):
        raise BadInputError(
            f"{name} is no image classifier: {len(images)} images give a tensor {shape}{when}, not (N, classes).",
            "Return a score for each class: pool feature maps, and end with nn.Linear(features, num_classes).",
        )
    if shape[1] != num_classes:
        raise BadInputError(
            f"{name} gives {shape[1]} scores for num_classes={num_classes}.",
            "Make its last layer of `num_classes` outputs.",
        )
    if output.dtype != torch.float32:
        raise BadInputError(
            f"{name}: the logits are {str(output.dtype).removeprefix('torch.')}, where float32 is needed.",
            "Convert nothing inside the network: `amp` trains in float16.",
        )
    return output


@contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
    """List the names of the modules that are running, outermost first; after an exception, of those that it left."""
    stack: list[str] = []
    handles = []
    for name, module in model.named_modules():

        def enter(*_: object, name: str = name) -> None:
            stack.append(name)

        def leave(*_: object) -> None:
            stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
