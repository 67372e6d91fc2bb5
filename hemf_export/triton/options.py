"""Options of serving a model with Triton; None stands for an option that isn't set.

Unset options are derived from the model's manifest in a new repository, and stay unchanged when a version is added.
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
    """Policy for the versions that a server loads; all of them with neither argument.

    Args:
        latest: number of the highest versions to serve; None for another policy.
        specific: exactly these versions; empty for another policy.

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
        """Parse `latest:N`, `all`, or `1,3`."""
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

    def served(self, existing: tuple[int, ...]) -> tuple[int, ...]:
        """Return the existing versions that a server loads."""
        if self.specific:
            return tuple(number for number in self.specific if number in existing)
        return tuple(sorted(existing))[-self.latest :] if self.latest is not None else tuple(sorted(existing))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19  # range of the configuration's fields


@dataclass(frozen=True)
class Options:
    """Options of a served model.

    Args:
        name: name of the model; the file's by default.
        backend: Triton backend; auto is tensorrt for a TensorRT plan and onnxruntime for an ONNX file.
        device: device of an ONNX file; engines always run on a GPU.
        max_batch: largest batch that the server forms.
        preferred: preferred batch sizes.
        queue_delay_us: longest wait for a preferred batch, in microseconds.
        instances: number of concurrent instances of the model.
        threads: threads within an operator of an instance on a CPU.
        cuda_graphs: launch captured CUDA graphs (engines).
        warmup: run images before the model counts as ready.
        images: folder of warm-up images; by default an engine's golden images, else seeded noise.
        versions: policy for the versions to serve.
        force: replace a model of that name with all its versions instead of adding one.

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
            raise BadInputError(f"{self.images} is not a folder of images.", "Name a folder that has images in it.")


def require_name(name: str) -> None:
    """Refuse an unsafe model name: it becomes a folder, and part of a URL.

    Raises:
        UsageError: the name has other characters than those allowed, or is too long.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"{name!r} can't be the name of a model in Triton.",
            f"Letters, digits, '.', '_' and '-', a letter or digit first, at most {LONGEST_NAME}: `name=NAME`.",
        )
