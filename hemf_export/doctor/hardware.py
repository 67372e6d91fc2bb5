"""Driver, GPU, disks, cores and memory as components of `hemf_export.doctor.checkup`."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from engines.targets import TARGETS
from hemf import artifacts, processors
from hemf_export.doctor.component import Component
from hemf_export.doctor.probing import Finding

LEAST_FREE_BYTES = 5e9
CUDA_BUILDS = "pytorch.org/get-started/locally"
_NO_DEVICE = "(CUDA error 100)"


def driver(finding: Finding) -> Component:
    """NVIDIA's driver."""
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
        return Component("driver", "broken", error, fix, facts)
    found = f"{facts.get('driver') or 'of an unknown version'}, CUDA up to {facts.get('cuda', '?')}"
    return Component("driver", "ok", found, facts=facts)


def gpu(finding: Finding, shown_by: Component) -> Component:
    """The GPUs that the driver `shown_by` shows; commands use the first."""
    gpus = finding.facts.get("gpus") or []
    if gpus:
        return Component("GPU", "ok", "; ".join(map(_described, gpus)), facts={"gpus": gpus})
    if shown_by.status == "broken" or (finding.facts.get("pci", 0) > 0 and shown_by.status == "missing"):
        return Component("GPU", "missing", "not seen without its driver", "Mend the driver.")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown_by.usable and hidden is not None:
        found = f"none is shown: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Component("GPU", "missing", found, "Unset CUDA_VISIBLE_DEVICES, or set it to 0.")
    return Component("GPU", "missing", "none", "Work on a machine with an NVIDIA GPU, such as a T4.")


def cuda_in_torch(shown: Component, torch: Finding, tried: Finding | None) -> Component:
    """Whether PyTorch can compute on the GPU, in float16, as training with AMP does.

    Args:
        shown: the GPU.
        torch: its import.
        tried: a product on the GPU; None where there was nothing to try.
    """
    name = "CUDA in torch"
    if tried is not None:
        if tried.outcome == "ok":
            return Component(name, "ok", f"computes in float16 on {tried.facts['gpu']}", facts=tried.facts)
        fix = f"Update the NVIDIA driver, or install a build of torch that fits driver and GPU: {CUDA_BUILDS}"
        return Component(name, "broken", tried.reason, fix)
    if torch.outcome != "ok":
        return Component(name, "missing", "torch can't be imported", "Mend torch.")
    if torch.facts.get("cuda_build"):
        return Component(name, "missing", "not tried without a GPU", "See GPU.")
    condition = "Install" if shown.usable else "With a GPU, install"
    return Component(name, "missing", "torch is built without it", f"{condition} a build for CUDA: {CUDA_BUILDS}")


def disks() -> tuple[Component, ...]:
    """Free space in the current folder and in the folder of our cache."""
    cache = disk("disk, cache", artifacts.cache_folder(), "Set HEMF_EXPORT_CACHE to a folder of your own.")
    try:
        here = Path.cwd()
    except OSError as error:  # it was removed
        found = f"this folder can't be read: {error.strerror or error}"
        return Component("disk, here", "broken", found, "Change to another folder."), cache
    return disk("disk, here", here, "Change to a folder of your own, or write elsewhere with -o."), cache


def disk(name: str, folder: Path, elsewhere: str) -> Component:
    """Free space where `folder` is, or would be made; `elsewhere` is the fix where it can't be written."""
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        usage = shutil.disk_usage(place)
        writable = os.access(place, os.W_OK)
    except (OSError, StopIteration) as error:
        return Component(name, "broken", f"{folder} can't be read: {error}", elsewhere)
    facts = {"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total, "writable": writable}
    found = f"{usage.free / 1e9:.1f} GB free: {folder}"
    if not writable:
        return Component(name, "warning", f"not writable: {folder}", elsewhere, facts)
    if usage.free < LEAST_FREE_BYTES:
        fix = f"Free some space: checkpoints and exports soon use up {LEAST_FREE_BYTES / 1e9:.0f} GB."
        return Component(name, "warning", found, fix, facts)
    return Component(name, "ok", found, facts=facts)


def processor() -> Component:
    """Cores and memory that this process may use."""
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
    """Of the machine, or of the container where that has less."""
    found = []
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # ValueError: "max" is no limit
            found.append(int(Path(limit).read_text(encoding="utf-8")))
    return min(found, default=None)
