"""How a model is to be served: what a user can choose, and which versions. None stands for what wasn't said.

What wasn't said is chosen from the model's manifest where a repository is new, and stays as it is where a version is
added to one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hemf_export.files.errors import BadInputError, UsageError

BackendName = Literal["tensorrt", "onnxruntime", "python"]
Device = Literal["cpu", "gpu"]
QUEUE_DELAY_US = 1000
LONGEST_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions a server loads.

    Args:
        latest: so many of the highest; None for another rule.
        specific: exactly these; none for another rule. With neither, all are served.

    Raises:
        UsageError: both, or numbers below 1.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.latest is not None and self.specific:
            raise UsageError("Versions are latest:N, all, or numbers, not two of these.")
        if min((*self.specific, self.latest if self.latest is not None else 1)) < 1:
            raise UsageError(f"Versions are counted from 1: {self} is none.")

    def __str__(self) -> str:
        if self.specific:
            return ",".join(map(str, self.specific))
        return "all" if self.latest is None else f"latest:{self.latest}"

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """`latest:N`, `all`, or `1,3`."""
        if text == "all":
            return cls(None)
        word, colon, number = text.partition(":")
        if word == "latest" and colon and _is_number(number):
            return cls(int(number))
        parts = text.split(",")
        if not all(map(_is_number, parts)):
            raise UsageError(f"`versions` takes latest:N, all, or numbers like 1,3, not {text!r}.")
        return cls(None, tuple(sorted({int(part) for part in parts})))

    @classmethod
    def of(cls, config: Any) -> VersionPolicy:
        """Read the policy of a `ModelConfig`; Triton's default is the highest version alone."""
        policy = config.version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific" and policy.specific.versions:
            return cls(None, tuple(int(number) for number in policy.specific.versions))
        if kind == "all":
            return cls(None)
        return cls(policy.latest.num_versions or 1) if kind == "latest" else cls()

    def put(self, config: Any) -> None:
        """Write the policy into a `ModelConfig`."""
        config.ClearField("version_policy")
        if self.specific:
            config.version_policy.specific.versions.extend(self.specific)
        elif self.latest is None:
            config.version_policy.all.SetInParent()
        else:
            config.version_policy.latest.num_versions = self.latest

    def served(self, there: tuple[int, ...]) -> tuple[int, ...]:
        """Choose, of the versions that are there, those that a server loads."""
        if self.specific:
            return tuple(number for number in self.specific if number in there)
        return tuple(sorted(there))[-self.latest :] if self.latest is not None else tuple(sorted(there))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


@dataclass(frozen=True)
class Options:
    """How to serve.

    Args:
        name: of the model; the file's own by default.
        backend: auto takes tensorrt for a TensorRT plan and onnxruntime for an ONNX file.
        device: where an ONNX file runs; engines always run on a GPU.
        max_batch: the most images that the server puts together.
        preferred: batch sizes that it waits for.
        queue_delay_us: how long it waits, in microseconds.
        instances: copies of the model that run at the same time.
        threads: of a copy on a CPU, within an operator.
        cuda_graphs: launch captured graphs (engines).
        warmup: run images before the model counts as ready.
        images: folder to take them from; by default an engine's golden images, else seeded noise.
        versions: which are served.
        force: replace a model of that name, all its versions, in place of adding one.

    Raises:
        UsageError: a value out of range, or a name that Triton or a file system could misread.
        BadInputError: no such folder of images.
    """

    name: str | None = None
    backend: Literal["auto"] | BackendName = "auto"
    device: Device | None = None
    max_batch: int | None = None
    preferred: tuple[int, ...] | None = None
    queue_delay_us: int | None = None
    instances: int | None = None
    threads: int | None = None
    cuda_graphs: bool | None = None
    warmup: bool = True
    images: Path | None = None
    versions: VersionPolicy | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            require_name(self.name)
        for what, value, least in (
            ("`max_batch`", self.max_batch, 1),
            ("`queue_delay_us`", self.queue_delay_us, 0),
            ("`instances`", self.instances, 1),
            ("`threads`", self.threads, 1),
            *(("`preferred`", size, 1) for size in self.preferred or ()),
        ):
            if value is not None and value < least:
                raise UsageError(f"{what} must be at least {least}, not {value}.")
        if self.images is not None and not self.warmup:
            raise UsageError("`images` is what the model is warmed up with; it makes no sense with `warmup=False`.")
        if self.images is not None and not self.images.is_dir():
            raise BadInputError(f"{self.images} is not a folder of images.")


def require_name(name: str) -> None:
    """Refuse a model's name that isn't plainly one: it becomes a folder, and part of a URL.

    Raises:
        UsageError: what is allowed is told.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"{name!r} can't be the name of a model in Triton.",
            f"Letters, digits, '.', '_' and '-', a letter or digit first, at most {LONGEST_NAME}: `name=NAME`.",
        )
