"""What TensorRT says: of a build all in a file, with its warnings and last errors at hand.

TensorRT gives None for what fails; the reason is only ever told to the logger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from hemf_export.engines import kernels

if TYPE_CHECKING:
    from tensorrt_bindings import Bindings, ILogger

_KEPT_ERRORS = 5
_KEPT_WARNINGS = 20


def logger(trt: Bindings, add: Callable[[str, str], None]) -> ILogger:
    """An `ILogger` of that binding that gives each message's severity and text to `add`."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            add(getattr(severity, "name", str(severity)), message)

    return Logger()


@dataclass
class BuildLog:
    """A builder's messages.

    Args:
        file: takes every message, a line each, as it comes.
        errors: in order.
        warnings: each once, in order.
        layers: lines that may be of a list of the engine's layers (see `engines.kernels`), as they were said. The file
            can't be read for them: another build of the same output may be writing it too.
    """

    file: TextIO
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def add(self, severity: str, message: str) -> None:
        """Keep a message of `severity`: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""
        self.file.write(f"{severity}: {message}\n")
        self.file.flush()  # a crash of the builder leaves what it said before
        if kernels.may_list(message):
            self.layers += filter(kernels.may_list, message.splitlines())
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(message)
        elif severity == "WARNING" and message not in self.warnings and len(self.warnings) < _KEPT_WARNINGS:
            self.warnings.append(message)

    def reason(self) -> str:
        """The last errors, in one line."""
        return "; ".join(self.errors[-_KEPT_ERRORS:])
