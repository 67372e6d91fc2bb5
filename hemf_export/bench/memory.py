"""Measure the peak memory of a runner in its own process, which only loads it and runs a batch twice.

In the process that times all runners, memory couldn't be attributed to one of them. That process closes its runners
first: they fill the same GPU.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from hemf_export.bench.lineup import Entry
from hemf_export.files import child

TIMEOUT_S = 600


@dataclass(frozen=True)
class Memory:
    """Peak memory of one runner at one batch size.

    Args:
        peak_rss_bytes: peak resident memory of the process on the host, including libraries.
        imports_rss_bytes: resident memory before the file was opened.
        gpu_bytes: growth of the GPU's used memory, including the CUDA context with the kernels that it loads, as NVML
            reports it, which makes no context; None on a CPU, or where NVML doesn't report it.
    """

    peak_rss_bytes: int
    imports_rss_bytes: int
    gpu_bytes: int | None

    def to_dict(self) -> dict[str, int | None]:
        """Convert to plain types, for JSON."""
        return dict(vars(self))


def measure(
    entry: Entry, batch: int, *, threads: int, gpu: str | None = None, timeout_s: float = TIMEOUT_S
) -> Memory | None:
    """Measure an entry in a child process; None if that fails, or the system doesn't report memory.

    Args:
        entry: entry of the lineup.
        batch: batch size.
        threads: threads on the CPU.
        gpu: UUID of the GPU that PyTorch uses, which it can't tell without a context; None for NVML's first.
        timeout_s: longest time.
    """
    request = json.dumps({"entry": entry.to_dict(), "batch": batch, "threads": threads, "gpu": gpu})
    command = child.command("hemf_export.bench.memory_worker", request)
    try:
        process = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        answer = json.loads(process.stdout.splitlines()[-1]) if process.returncode == 0 else None
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
        return None
    return None if answer is None else Memory(**answer)
