"""The child process of `memory`: `python -m hemf_export.bench.memory_worker REQUEST` answers with one JSON line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from hemf_export.bench import conditions, contenders
from hemf_export.bench.lineup import Entry
from hemf_export.files import native_output
from hemf_export.train.float32 import exact_float32


@exact_float32()
def main(request: str) -> None:
    """Load the entry, run a batch twice, and print the memory used as JSON."""
    values = json.loads(request)
    entry = Entry.from_dict(values["entry"])
    torch.set_num_threads(values["threads"])
    device = conditions.open_gpu(values["gpu"]) if entry.device == "cuda" else None
    before, gpu_before = _status("VmRSS"), _gpu_used(device)
    pixels = np.zeros((values["batch"], entry.input.height, entry.input.width, 3), np.uint8)
    with native_output.off_stdout():
        work = contenders.open_entry(entry, threads=values["threads"]).prepare(pixels)
        for _ in range(2):
            work.run()
    gpu_after = _gpu_used(device)
    gpu = None if gpu_before is None or gpu_after is None else gpu_after - gpu_before
    print(json.dumps({"peak_rss_bytes": _status("VmHWM"), "imports_rss_bytes": before, "gpu_bytes": gpu}))  # noqa: T201


def _status(name: str) -> int:
    """Read bytes from /proc: getrusage would report the parent's peak if that was larger at the fork."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(match[1]) * 1024


def _gpu_used(device: conditions.NvmlDevice | None) -> int | None:
    return None if device is None else device.used_bytes()


if __name__ == "__main__":
    main(*sys.argv[1:])
