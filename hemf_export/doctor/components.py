"""Describe the components that commands need: Python packages, and the driver, GPU, disks, cores and memory.

Required versions of packages, and so the commands that install them, come from hemf-export's own metadata. This module
imports none of these packages: their probes do.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from hemf_export.doctor.probing import Finding
from hemf_export.engines.targets import TARGETS
from hemf_export.files import artifacts, processors

GPU_RUNTIME, CPU_RUNTIME = "onnxruntime-gpu", "onnxruntime"
# The distribution of ONNX Runtime for this platform, as pyproject.toml says.
RUNTIME = GPU_RUNTIME if sys.platform == "linux" and platform.machine() == "x86_64" else CPU_RUNTIME
# Major version of TensorRT whose libraries ONNX Runtime's provider is linked against, up to 1.31; pip's newest is 11.
RUNTIME_TENSORRT = 10
Status = Literal["ok", "warning", "missing", "broken"]

# Name → (module to import, distribution that provides it).
PACKAGES = {
    "torch": ("torch", "torch"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", RUNTIME),
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
    "Jinja2": ("jinja2", "Jinja2"),
    "nvidia-ml-py": ("pynvml", "nvidia-ml-py"),
    "zstandard": ("zstandard", "zstandard"),
    "tritonclient": ("tritonclient.grpc", "tritonclient"),
}
OTHER_PACKAGES = (
    "numpy", "onnx-ir", "onnxscript", "safetensors", "filelock", "Pillow", "scikit-learn", "scipy", "matplotlib",
    "Jinja2", "nvidia-ml-py", "zstandard",
)  # fmt: skip
LEAST_FREE_BYTES = 5e9
CUDA_BUILDS = "pytorch.org/get-started/locally"
# Builds of torch for CUDA 12, which run with drivers before 580 and have kernels for compute capability 5.0 to 9.0;
# those for CUDA 13 begin at 7.5 (RELEASE.md of PyTorch, "CUDA Support Matrix"; CUDA 13.0's release notes, table 2).
CUDA_12_BUILDS = "https://download.pytorch.org/whl/cu126"
LEAST_CAPABILITY = {12: (5, 0), 13: (7, 5)}
# CUDA_ERROR_NO_DEVICE and CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE of cuda.h.
_NO_DEVICE, _NOT_COMPATIBLE = "(CUDA error 100)", "(CUDA error 804)"


@dataclass(frozen=True)
class Component:
    """Component that commands need or may use.

    Args:
        name: torch, GPU, …
        status: "ok", "missing", "broken" if it doesn't work, "warning" if it may not suffice.
        found: version and details, or what is wrong.
        fix: how to fix it; empty if nothing is wrong.
        facts: details for programs.
        needed_by: commands that need it.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    needed_by: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether commands can use it."""
        return self.status in ("ok", "warning")


def has_tensorrt_rtx() -> bool:
    """Return whether TensorRT-RTX exists for this platform."""
    return sys.platform in ("linux", "win32") and platform.machine() in ("x86_64", "AMD64")


def requirement(distribution: str) -> str:
    """Return a requirement, such as `onnx>=1.22`; the name alone if our metadata lacks it, as without installation."""
    try:
        lines = metadata.requires("hemf-export") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?([^;]*)", line)  # the name, its extras, its bounds
        if match and match[1].lower() == distribution.lower():
            bounds = match[2].strip()
            return match[1] + ",".join(sorted(bounds.split(","), reverse=True))  # the floor first: >=2.10,<2.14
    return distribution


def satisfies(version: str, wanted: str) -> bool:
    """Return whether a version is within the bounds (>=, <) of a requirement; True if it can't be compared."""
    release = _release(version)
    if not release:
        return True
    floors = (_release(bound) for bound in re.findall(r">=\s*([\w.]+)", wanted))
    ceilings = (_release(bound) for bound in re.findall(r"<\s*([\w.]+)", wanted))
    return all(release >= floor for floor in floors) and all(release < ceiling for ceiling in ceilings)


def install_command(distribution: str, *, again: bool = False) -> str:
    """Return the command that installs a distribution, or reinstalls a broken one."""
    wanted = requirement(distribution)
    quoted = f"'{wanted}'" if re.search(r"[<>]", wanted) else wanted
    return f"pip install {'--force-reinstall ' if again else ''}{quoted}"


def installed(distribution: str) -> bool:
    """Return whether pip lists a distribution, which doesn't mean that it works."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """Parse a version, `2.13.0+cpu` → (2, 13), without trailing zeros: 2.10 equals 2.10.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def package(name: str, finding: Finding) -> Component:
    """Describe a package of PACKAGES, from its import in a child process."""
    distribution = PACKAGES[name][1]
    two_runtimes = name == "onnxruntime" and all(installed(each) for each in (CPU_RUNTIME, GPU_RUNTIME))
    if finding.outcome != "ok":
        fix = _one_runtime() if two_runtimes else _install(name, broken=finding.outcome == "broken")
        return Component(name, finding.outcome, finding.reason, fix, finding.facts)
    version = finding.facts.get("version") or "of an unknown version"
    shown = ", ".join((version, *_details(name, finding.facts)))
    wanted = requirement(distribution)
    if not satisfies(version, wanted):
        fix = install_command(distribution)
        return Component(name, "warning", f"{shown}; hemf-export is made for {wanted}", fix, finding.facts)
    if two_runtimes:
        # They share the folder `onnxruntime`: the one installed last works.
        shown += "; onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        return Component(name, "warning", shown, _one_runtime(), finding.facts)
    return Component(name, "ok", shown, facts=finding.facts)


def _details(name: str, facts: Mapping[str, Any]) -> list[str]:
    if name == "tensorrt" and _release(facts.get("version") or "")[:1] > (RUNTIME_TENSORRT,):
        return [f"but bench's ort-tensorrt needs {RUNTIME_TENSORRT}, which ONNX Runtime is made for"]
    if name == "torch":
        return [f"for CUDA {facts['cuda_build']}" if facts.get("cuda_build") else "built without CUDA"]
    providers = [provider.removesuffix("ExecutionProvider") for provider in facts.get("providers", ())]
    return [f"providers {', '.join(providers)}"] if providers else []


def _install(name: str, *, broken: bool) -> str:
    distribution = PACKAGES[name][1]
    if name == "tensorrt" and not broken:
        return "On a host with a GPU: pip install tensorrt"
    if name == "tritonclient" and not broken:
        return "pip install 'tritonclient[grpc,http]'"
    if name == "tensorrt-rtx" and not has_tensorrt_rtx():
        return "None: it is made for Linux and Windows on x86-64."
    return install_command(distribution, again=broken)


def _one_runtime() -> str:
    both = f"{CPU_RUNTIME} {GPU_RUNTIME}"
    return f"pip uninstall -y {both}; {install_command(RUNTIME)}"


def driver(finding: Finding) -> Component:
    """Describe the NVIDIA driver."""
    facts = finding.facts
    if finding.outcome == "missing":
        if facts.get("pci"):
            fix = "Install the NVIDIA driver; in a container, start it with --gpus all."
            return Component("driver", "missing", "none, though an NVIDIA GPU is in this machine", fix, facts)
        fix = "With a GPU, install its driver; in a container, start it with --gpus all."
        return Component("driver", "missing", "none", fix, facts)
    error = finding.reason or str(facts.get("error", ""))
    if error and not error.endswith(_NO_DEVICE):
        fix = "Restart the machine; if that doesn't help, install the NVIDIA driver again."
        if error.endswith(_NOT_COMPATIBLE):
            fix = "Update the NVIDIA driver: only on data center GPUs does an older one serve a container's newer CUDA."
        return Component("driver", "broken", error, fix, facts)
    shown = f"{facts.get('driver') or 'of an unknown version'}, CUDA up to {facts.get('cuda', '?')}"
    return Component("driver", "ok", shown, facts=facts)


def gpu(finding: Finding, shown_by: Component) -> Component:
    """Describe the GPUs that the driver `shown_by` lists; commands use the first."""
    gpus = finding.facts.get("gpus") or []
    if gpus:
        return Component("GPU", "ok", "; ".join(map(_described, gpus)), facts={"gpus": gpus})
    if shown_by.status == "broken" or (finding.facts.get("pci", 0) > 0 and shown_by.status == "missing"):
        return Component("GPU", "missing", "not seen without its driver", "Mend the driver.")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown_by.usable and hidden is not None:
        shown = f"none is shown: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Component("GPU", "missing", shown, "Unset CUDA_VISIBLE_DEVICES, or set it to 0.")
    return Component("GPU", "missing", "none", "Work on a machine with an NVIDIA GPU, such as a T4.")


def cuda_in_torch(shown: Component, shown_by: Component, torch: Finding, tried: Finding | None) -> Component:
    """Describe whether PyTorch can compute on the GPU in float16, as training with AMP does.

    Args:
        shown: the GPU.
        shown_by: its driver.
        torch: finding of its import.
        tried: finding of a product on the GPU; None if it wasn't tried.
    """
    name = "CUDA in torch"
    if tried is not None:
        if tried.outcome == "ok":
            return Component(name, "ok", f"computes in float16 on {tried.facts['gpu']}", facts=tried.facts)
        return Component(name, "broken", tried.reason, _fitting_torch(shown, shown_by, torch))
    if torch.outcome != "ok":
        return Component(name, "missing", "torch can't be imported", "Mend torch.")
    if torch.facts.get("cuda_build"):
        return Component(name, "missing", "not tried without a GPU", "See GPU.")
    condition = "Install" if shown.usable else "With a GPU, install"
    return Component(name, "missing", "torch is built without it", f"{condition} a build for CUDA: {CUDA_BUILDS}")


def _fitting_torch(shown: Component, shown_by: Component, torch: Finding) -> str:
    """Say which build of torch fits the driver and the first GPU, or which driver fits this build."""
    built = _release(str(torch.facts.get("cuda_build", "")))
    served = _release(str(shown_by.facts.get("cuda", "")))
    older = f"{install_command('torch', again=True)} --index-url {CUDA_12_BUILDS}"
    if built[:1] == (13,) and served[:1] == (12,):
        return f"Update the NVIDIA driver (CUDA 13 needs 580 or newer), or take torch for CUDA 12: {older}"
    for gpu_facts in shown.facts.get("gpus", ())[:1]:
        capability = tuple(gpu_facts["compute_capability"])
        if built[:1] == (13,) and LEAST_CAPABILITY[12] <= capability < LEAST_CAPABILITY[13]:
            return f"Take torch for CUDA 12, which has kernels for this GPU: {older}"
    return f"Update the NVIDIA driver, or install a build of torch that fits driver and GPU: {CUDA_BUILDS}"


def disks() -> tuple[Component, ...]:
    """Describe the free space in the current folder and in the cache folder."""
    cache = disk("disk, cache", artifacts.cache_folder(), "Set HEMF_EXPORT_CACHE to a folder of your own.")
    try:
        here = Path.cwd()
    except OSError as error:  # the folder was removed
        shown = f"this folder can't be read: {error.strerror or error}"
        return Component("disk, here", "broken", shown, "Change to another folder."), cache
    return disk("disk, here", here, "Change to a folder of your own."), cache


def disk(name: str, folder: Path, elsewhere: str) -> Component:
    """Describe the free space at `folder`, which need not exist; `elsewhere` is the fix if it isn't writable."""
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        usage = shutil.disk_usage(place)
        writable = os.access(place, os.W_OK)
    except (OSError, StopIteration) as error:
        return Component(name, "broken", f"{folder} can't be read: {error}", elsewhere)
    facts = {"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total, "writable": writable}
    shown = f"{usage.free / 1e9:.1f} GB free: {folder}"
    if not writable:
        return Component(name, "warning", f"not writable: {folder}", elsewhere, facts)
    if usage.free < LEAST_FREE_BYTES:
        fix = f"Free some space: checkpoints and exports soon use up {LEAST_FREE_BYTES / 1e9:.0f} GB."
        return Component(name, "warning", shown, fix, facts)
    return Component(name, "ok", shown, facts=facts)


def processor() -> Component:
    """Describe the cores and memory that this process may use."""
    cores, quota, memory = processors.usable_cores(), processors.quota(), _memory_bytes()
    facts = {"cores": cores, "cores_quota": quota, "memory_bytes": memory}
    shown = f"{memory / 1e9:.1f} GB" if memory else "memory unknown"
    limit = f" (of {processors.cores_by_affinity()}, by a quota of {quota:g})" if quota is not None else ""
    return Component("cores, memory", "ok", f"{cores} usable{limit}, {shown}", facts=facts)


def _described(facts: dict[str, Any]) -> str:
    major, minor = facts["compute_capability"]
    t4_class = (major, minor) == TARGETS["t4"].compute_capability
    kind = "T4-class" if t4_class else "not T4-class"
    return f"{facts['name']}, compute capability {major}.{minor} ({kind}), {facts['memory_bytes'] / 1e9:.1f} GB"


def _memory_bytes() -> int | None:
    """Return the memory of the machine, or the container's limit if that is smaller."""
    limits = []
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # ValueError: "max" is no limit
            limits.append(int(Path(limit).read_text(encoding="utf-8")))
    return min(limits, default=None)
