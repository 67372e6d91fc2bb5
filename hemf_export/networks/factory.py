"""Factories of networks: `package.module:function`, user's code that is imported and called with `num_classes=` alone.

This is the only place that imports code by a name. Callers pass a name that the user gave in the call at hand, or in
the list of configurations that it names; never one that a model's file states. Exceptions inside it are translated,
with their own message and the line that raised them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

import torch
from torch import nn

from hemf_export.files.errors import BadInputError, HemfError, UsageError, did_you_mean
from hemf_export.files.gpu_memory import is_out_of_memory

FORM = "package.module:function"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# Folders of other people's code: a failure is told with the innermost line outside of them.
_OURS = Path(__file__).parents[1]
_LIBRARIES = tuple(
    str(Path(path).resolve()) for path in (*sysconfig.get_paths().values(), str(Path(str(torch.__file__)).parent))
)


def is_name(text: str) -> bool:
    """Whether a text has the form of a factory's name."""
    return _NAME.fullmatch(text) is not None


def require_name(text: str) -> None:
    """Raise UsageError unless a text has the form of a factory's name."""
    if not is_name(text):
        raise UsageError(f"{text!r} names no network of your own.", f"Write it as {FORM}, such as my_models:resnet.")


def find(name: str) -> Callable[..., object]:
    """Import a factory.

    Raises:
        UsageError: not a factory's name.
        BadInputError: its module can't be imported, or has nothing of that name that can be called with `num_classes=`
            alone.
    """
    require_name(name)
    module_name, _, attributes = name.partition(":")
    found: object = _imported(module_name, name)
    for attribute in attributes.split("."):
        with blamed(f"{name} can't be imported"):  # a package may import its parts at the first use of their names
            there = hasattr(found, attribute)
        if not there:
            inside = getattr(found, "__dict__", {})
            names = [each for each, value in inside.items() if callable(value) and not each.startswith("_")]
            where = f" ({found.__file__})" if isinstance(found, ModuleType) and found.__file__ else ""
            raise BadInputError(
                f"{name}: {module_name}{where} has no {attribute!r}.",
                did_you_mean(attribute, names) if names else "It has no functions at all.",
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise BadInputError(
            f"{name} is a {type(found).__name__}, which can't be called.",
            "A function, or a class, is needed that takes `num_classes` and returns the network.",
        )
    _require_signature(name, found)
    return found


def make(name: str, factory: Callable[..., object], num_classes: int) -> nn.Module:
    """Call a factory, and check what it returns without running it.

    Raises:
        BadInputError: it raises an exception, or doesn't return an `nn.Module` of initialized float32 tensors.
    """
    with blamed(f"{name}(num_classes={num_classes}) fails"):
        model = factory(num_classes=num_classes)
    if not isinstance(model, nn.Module):
        shown = "nothing" if model is None else f"a {type(model).__name__}"
        raise BadInputError(f"{name}(num_classes={num_classes}) returns {shown}, not an nn.Module.", _RETURN)
    for part, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise BadInputError(
                f"{name}: the parameter {part} is initialized lazily, by the first image.",
                "Give its layer the number of input features: nn.Linear for nn.LazyLinear, and so on.",
            )
    meant = torch.empty(0).device
    for part, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != meant.type and tensor.device.type != "cpu":
            raise BadInputError(
                f"{name}: {part} is on the device {tensor.device}.",
                "Return the network on the CPU: training and export move it themselves.",
            )
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadInputError(
                f"{name}: {part} is {kind}, where float32 is needed.",
                "Return the network in float32 (`.float()`): `amp` trains in float16, `quantize()` converts to it.",
            )
    return model


def source_sha256(name: str) -> str | None:
    """Hash of the file of a factory's module; None where it has none, or can't be found.

    Raises:
        UsageError: not a factory's name.
    """
    require_name(name)
    try:
        found = importlib.util.find_spec(name.partition(":")[0])
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else None
    except (ImportError, ValueError, OSError):
        return None


@contextmanager
def blamed(what: str, hint: str | None = None) -> Iterator[None]:
    """Translate whatever the user's code raises in the block; print to stderr what it prints to stdout, which is ours.

    Args:
        what: beginning of the message, without a full stop.
        hint: hint of the message; None for the place in the code alone.

    Raises:
        BadInputError: an exception, with its own message and the line that raised it.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (HemfError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise BadInputError(
            f"{what}: {_summary(error)}{place_of(error)}.", hint or "It is in your own code."
        ) from error


def place_of(error: BaseException) -> str:
    """File and line that raised an exception, in brackets: the innermost of the user's own; empty without any."""
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if not Path(frame.filename).resolve().is_relative_to(_OURS)]
    outside = [frame for frame in own if not str(Path(frame.filename).resolve()).startswith(_LIBRARIES)]
    chosen = (outside or own)[-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in chosen)


def _imported(module_name: str, name: str) -> ModuleType:
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module(module_name)
    except (HemfError, KeyboardInterrupt, MemoryError):
        raise
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}" if error.filename else module_name
        raise BadInputError(f"{name} can't be imported: {error.msg} ({where}).", "Mend that line.") from error
    except BaseException as error:
        parts = module_name.split(".")
        of_it = {".".join(parts[: end + 1]) for end in range(len(parts))}
        if isinstance(error, ModuleNotFoundError) and error.name in of_it:
            raise BadInputError(
                f"{name} can't be imported: there is no module {error.name!r}.",
                "Install its package, or work in the folder that holds it.",
            ) from error
        raise BadInputError(
            f"{name} can't be imported: {_summary(error)}{place_of(error)}.", "It is in your own code."
        ) from error


def _require_signature(name: str, factory: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{name} doesn't say what it takes.", _RETURN) from error
    try:
        signature.bind(num_classes=2)
    except TypeError as error:
        raise BadInputError(
            f"{name}{signature} can't be called with num_classes alone: {str(error).rstrip('.')}.", _RETURN
        ) from error


_RETURN = "It is called as function(num_classes=N), and must return the network: an nn.Module."


def _summary(error: BaseException) -> str:
    text = str(error).strip()
    # torch follows its message by an empty line and advice on debugging.
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__
