"""CPU cores that this process may use: by its affinity, and by the CPU quota of its control groups.

Libraries start a thread for each core of the machine. In a container with a lower quota (`docker run --cpus 2`) the
kernel throttles all of them for a part of every period: more threads than the quota are slower, not faster.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

VARIABLE = "OMP_NUM_THREADS"  # what users set, and what PyTorch, NumPy and SciPy go by


def threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS if it is set, else one for each usable core."""
    asked = os.environ.get(VARIABLE, "").split(",")[0].strip()  # a list is for nested levels
    return int(asked) if asked.isascii() and asked.isdigit() and int(asked) > 0 else usable_cores()


def usable_cores() -> int:
    """Cores that this process may use, at least one. A quota of 2.5 gives 2: a third would be throttled."""
    cores, limit = cores_by_affinity(), quota()
    return cores if limit is None else max(1, min(cores, int(limit)))


def cores_by_affinity() -> int:
    """Cores that this process may run on (CPU affinity), whatever the quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float | None:
    """CPU quota of this process's control groups, in cores; None where none of them has a limit.

    The least of its own group and of all visible groups above.

    Args:
        root: root of the file system with `proc` and the control groups.
    """
    limits = [limit for folder in _groups(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def respect_quota() -> None:
    """Limit the threads of libraries to the quota, in this process and its children.

    Without a quota below the number of cores, or where the user has set OMP_NUM_THREADS, nothing changes.
    """
    cores = usable_cores()
    if cores >= cores_by_affinity() or VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = str(cores)
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):  # it has read it already
        torch.set_num_threads(min(cores, torch.get_num_threads()))


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy of control groups that may limit CPU time.

    Args:
        unified: whether it is cgroup v2.
        top: the group at its root.
        place: mount point.
    """

    unified: bool
    top: PurePosixPath
    place: Path


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, and of those above them."""
    own: dict[bool, PurePosixPath] = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if path.startswith("/") and (number == "0" or "cpu" in controllers.split(",")):
            own[number == "0"] = PurePosixPath(path)
    for mount in _mounts(root):
        if mount.unified not in own:
            continue
        group = own[mount.unified]
        # In a container the path may be the host's, of which only a part is mounted here, or nothing but its top.
        below = group.relative_to(mount.top) if group.is_relative_to(mount.top) else group.relative_to("/")
        if ".." in below.parts:
            below = PurePosixPath()
        for depth in range(len(below.parts), -1, -1):
            yield mount.place.joinpath(*below.parts[:depth])


def _mounts(root: Path) -> Iterator[_Mount]:
    """See proc(5), mountinfo: … root mount-point options … - type source super-options."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        unified = kind[0] == "cgroup2"
        if unified or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            top, place = (re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), each) for each in fields[3:5])
            yield _Mount(unified, PurePosixPath(top), root / place.lstrip("/"))


def _limit(folder: Path) -> float | None:
    """Limit of one group, in cores: cpu.max of cgroup v2, or cpu.cfs_quota_us and cpu.cfs_period_us of v1."""
    fields = " ".join(_lines(folder / "cpu.max")).split()
    fields = fields or [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    with suppress(ValueError):  # "max" is no limit
        time, period = (int(field) for field in fields)
        return time / period if time > 0 and period > 0 else None  # -1 is none either
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):  # another system, or not for us to read
        return []
