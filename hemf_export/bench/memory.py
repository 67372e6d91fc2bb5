"""Peak memory of a runner: of a process of its own that loads it, runs a batch twice, and does nothing else.

In the process that times all of them, nobody could tell whose memory is whose.
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
        peak_rss_bytes: the most of the host's memory that the process held, its libraries included.
        imports_rss_bytes: what of that it held before the file was opened.
        gpu_bytes: what the GPU's free memory fell by, CUDA's own share included; None on a CPU.
    """

    peak_rss_bytes: int
    imports_rss_bytes: int
    gpu_bytes: int | None

    def to_dict(self) -> dict[str, int | None]:
        """Plain types, for JSON."""
        return dict(vars(self))


def measure(entry: Entry, batch: int, *, threads: int, timeout_s: float = TIMEOUT_S) -> Memory | None:
    """Run an entry in a child process; None where that fails, or the system doesn't tell."""
    request = json.dumps({"entry": entry.to_dict(), "batch": batch, "threads": threads})
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
