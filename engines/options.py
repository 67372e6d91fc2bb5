"""How an engine is built, apart from graph and target: what the builder is told, and what the manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hemf_export.engines.backends import BackendName
from hemf_export.engines.batches import BatchProfile
from hemf_export.files.errors import MissingCapabilityError, UsageError

HIGHEST_LEVEL = 5


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told.

    Args:
        profiles: batch sizes, one optimization profile each. The runtime takes the first that holds a batch.
        workspace_mib: limit of the scratch memory that a layer may use, in MiB.
        optimization_level: 0 (builds fast) to 5 (searches longest); None for TensorRT's own choice.
        version_compatible: later versions of TensorRT run the plan as well; it then carries code for the host.
        stripped: the plan has no weights; they come from the graph when it is loaded.
        timing_cache: measured times of kernels are kept for the next build.

    Raises:
        UsageError: no profile, or a value out of range.
    """

    profiles: tuple[BatchProfile, ...] = (BatchProfile(),)
    workspace_mib: int = 2048
    optimization_level: int | None = None
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
        """See that `backend` can do it, before any work.

        Args:
            backend: which TensorRT.
            gpu: compute capability of this machine's GPU, or None.

        Raises:
            UsageError: TensorRT-RTX never does it.
            MissingCapabilityError: it needs a GPU for it.
        """
        if backend != "tensorrt-rtx":
            return
        if self.version_compatible:
            raise UsageError(
                "TensorRT-RTX has no version-compatible engines: it ships without the lean runtime that they carry.",
                "Leave out `version_compatible`, or build with `backend='tensorrt'` on a GPU of the target's kind.",
            )
        if self.stripped and gpu is None:
            raise MissingCapabilityError(
                "TensorRT-RTX can't strip weights without a GPU.", "Leave out `stripped`, or build on a GPU."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**vars(self), "profiles": [str(profile) for profile in self.profiles]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildOptions:
        """What `to_dict` gave."""
        profiles = tuple(BatchProfile.parse(text) for text in values["profiles"])
        return cls(**{**values, "profiles": profiles})

    def changed(self) -> dict[str, Any]:
        """The options that differ from the default, by the names that `build_engine` has for them."""
        default = BuildOptions()
        own = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        profiles = own.pop("profiles", None)
        if profiles is None:
            return own
        texts = tuple(map(str, profiles))
        return {"batch": texts if len(texts) > 1 else texts[0], **own}
