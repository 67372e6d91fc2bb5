"""How an engine is built, apart from its graph and target: batch sizes and builder options, kept in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hemf_export.engines.backends import BackendName
from hemf_export.engines.targets import Target
from hemf_export.files.errors import MissingCapabilityError, UsageError

HIGHEST_LEVEL = 5


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of one optimization profile.

    Raises:
        UsageError: not 1 ≤ minimum ≤ optimum ≤ maximum.
    """

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(f"Batch profile {self} is not 1 ≤ MIN ≤ OPT ≤ MAX.")

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Parse `MIN:OPT:MAX`, or `N` for N:N:N."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise UsageError(f"`batch` takes MIN:OPT:MAX or N, not {text!r}.")
        numbers = [int(part) for part in parts]
        return cls(*(numbers if len(numbers) == 3 else numbers * 3))


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builder.

    Args:
        profiles: batch sizes, one optimization profile each. A batch runs in the first that it fits.
        workspace_mib: limit of the scratch memory of a layer, in MiB.
        optimization_level: 0 (builds fastest) to 5 (searches longest); None for TensorRT's default.
        hardware_compatible: make a plan that every GPU of the compute capability runs, not only the model that builds
            it. TensorRT then leaves out some of its fastest kernels. None for where the target is anything but the very
            model that builds. TensorRT-RTX's plans always are.
        version_compatible: make a plan that later versions of TensorRT run as well; it carries host code.
        stripped: leave the weights out of the plan; they are refitted from the graph when it is loaded.
        timing_cache: begin with the kernel timings of earlier builds, and keep them for the next.

    Raises:
        UsageError: no profile, or a value out of range.
    """

    profiles: tuple[BatchProfile, ...] = (BatchProfile(),)
    workspace_mib: int = 2048
    optimization_level: int | None = None
    hardware_compatible: bool | None = None
    version_compatible: bool = False
    stripped: bool = False
    timing_cache: bool = True

    def __post_init__(self) -> None:
        if not self.profiles:
            raise UsageError("An engine needs at least one batch profile.")
        if self.workspace_mib < 1:
            raise UsageError(f"The workspace must be at least 1 MiB, not {self.workspace_mib}.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= HIGHEST_LEVEL:
            raise UsageError(f"The optimization level is 0 to {HIGHEST_LEVEL}, not {self.optimization_level}.")

    def require(self, backend: BackendName, gpu: tuple[int, int] | None) -> None:
        """Check before any work that `backend` supports these options.

        Args:
            backend: which TensorRT.
            gpu: compute capability of this machine's GPU, or None.

        Raises:
            UsageError: it never supports them.
            MissingCapabilityError: it needs a GPU for them.
        """
        if backend != "tensorrt-rtx":
            if self.version_compatible and self.stripped:
                # The lean runtime can't refit, says NVIDIA's article on version compatibility (TensorRT 8.6).
                raise UsageError(
                    "A version-compatible engine runs in the lean runtime that it carries, which can't be relied on to "
                    "take weights: `version_compatible` and `stripped` exclude each other.",
                    "Leave out one of them.",
                )
            return
        if self.hardware_compatible is False:
            raise UsageError(
                "TensorRT-RTX builds for a compute capability, never for one model of GPU.",
                "Leave out `hardware_compatible`.",
            )
        if self.version_compatible:
            raise UsageError(
                "TensorRT-RTX has no version-compatible engines: it ships without the lean runtime that they carry.",
                "Leave out `version_compatible`, or build with `backend='tensorrt'` on a GPU of the target's kind.",
            )
        if self.stripped and gpu is None:
            raise MissingCapabilityError(
                "TensorRT-RTX can't strip weights without a GPU.", "Leave out `stripped`, or build on a GPU."
            )

    def for_gpu(self, target: Target, gpu: str | None) -> BuildOptions:
        """Return the options with `hardware_compatible` decided for the GPU that builds.

        Args:
            target: what the plan is for.
            gpu: product name of the GPU that builds, or None.

        Raises:
            UsageError: the plan would run on the GPU that builds alone, which is not the target.
        """
        named = target.chip is not None and target.chip.names
        if self.hardware_compatible is False and named and not target.is_product(gpu):
            raise UsageError(
                f"Without `hardware_compatible` the engine runs on the model that builds it alone, {gpu}, which isn't "
                f"{target.name}.",
                "Leave that to the default, or build on the target.",
            )
        if self.hardware_compatible is not None:
            return self
        return replace(self, hardware_compatible=not target.is_product(gpu))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**vars(self), "profiles": [str(profile) for profile in self.profiles]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildOptions:
        """Read what `to_dict` returned."""
        profiles = tuple(BatchProfile.parse(text) for text in values["profiles"])
        return cls(**{**values, "profiles": profiles})

    def changed(self) -> dict[str, Any]:
        """The options that differ from the default, by their names as parameters of `build_engine`."""
        default = BuildOptions()
        own = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        profiles = own.pop("profiles", None)
        if profiles is None:
            return own
        texts = tuple(map(str, profiles))
        return {"batch": texts if len(texts) > 1 else texts[0], **own}
