"""One thing that commands need, as `checkup` shows it; and Python packages as such, from their probes.

Imports none of the packages that it speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hemf_export.doctor import requirements
from hemf_export.doctor.probing import Finding

Status = Literal["ok", "warning", "missing", "broken"]

# Name → (what is imported, the distribution that brings it).
PACKAGES = {
    "torch": ("torch", "torch"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", requirements.runtime()),
    "onnxsim": ("onnxsim", "onnxsim"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx-cu12"),
    "numpy": ("numpy", "numpy"),
    "onnx-ir": ("onnx_ir", "onnx-ir"),
    "onnxscript": ("onnxscript", "onnxscript"),
    "safetensors": ("safetensors", "safetensors"),
    "filelock": ("filelock", "filelock"),
    "Pillow": ("PIL", "Pillow"),
    "scikit-learn": ("sklearn", "scikit-learn"),
    "scipy": ("scipy", "scipy"),
    "matplotlib": ("matplotlib", "matplotlib"),
    "zstandard": ("zstandard", "zstandard"),
    "tritonclient": ("tritonclient.grpc", "tritonclient"),
}
OTHER_PACKAGES = (
    "numpy", "onnx-ir", "onnxscript", "safetensors", "filelock", "Pillow", "scikit-learn", "scipy", "matplotlib",
    "zstandard",
)  # fmt: skip


@dataclass(frozen=True)
class Component:
    """One thing that commands need, or may use.

    Args:
        name: torch, GPU, …
        status: "missing" where it isn't there, "broken" where it doesn't work, "warning" where it may not do.
        found: version and details, or what is wrong.
        fix: how to mend it; empty where there is nothing to mend.
        facts: the same for programs.
        needed_by: commands.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    needed_by: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether commands can work with it."""
        return self.status in ("ok", "warning")


def package(name: str, finding: Finding) -> Component:
    """A package of PACKAGES, from its import in a child process."""
    distribution = PACKAGES[name][1]
    two_runtimes = name == "onnxruntime" and all(
        requirements.installed(each) for each in (requirements.CPU_RUNTIME, requirements.GPU_RUNTIME)
    )
    if finding.outcome != "ok":
        fix = _one_runtime() if two_runtimes else _install(name, broken=finding.outcome == "broken")
        return Component(name, finding.outcome, finding.reason, fix, finding.facts)
    version = finding.facts.get("version") or "of an unknown version"
    found = ", ".join((version, *_details(name, finding.facts)))
    wanted = requirements.requirement(distribution)
    if not requirements.satisfies(version, wanted):
        fix = requirements.install(distribution)
        return Component(name, "warning", f"{found}; hemf-export is made for {wanted}", fix, finding.facts)
    if two_runtimes:
        # They share the folder `onnxruntime`: which one works is a matter of which came last.
        found += "; onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        return Component(name, "warning", found, _one_runtime(), finding.facts)
    return Component(name, "ok", found, facts=finding.facts)


def _details(name: str, facts: Mapping[str, Any]) -> list[str]:
    if name == "torch":
        return [f"for CUDA {facts['cuda_build']}" if facts.get("cuda_build") else "built without CUDA"]
    providers = [provider.removesuffix("ExecutionProvider") for provider in facts.get("providers", ())]
    return [f"providers {', '.join(providers)}"] if providers else []


def _install(name: str, *, broken: bool) -> str:
    distribution = PACKAGES[name][1]
    if name == "tensorrt" and not broken:
        return "On a host with a GPU: pip install 'hemf-export[tensorrt]'"
    if name == "tritonclient" and not broken:
        return "pip install 'hemf-export[triton]'"
    if name == "tensorrt-rtx" and not requirements.has_tensorrt_rtx():
        return "None: it is made for Linux and Windows on x86-64."
    return requirements.install(distribution, again=broken)


def _one_runtime() -> str:
    both = f"{requirements.CPU_RUNTIME} {requirements.GPU_RUNTIME}"
    return f"pip uninstall -y {both}; {requirements.install(requirements.runtime())}"
