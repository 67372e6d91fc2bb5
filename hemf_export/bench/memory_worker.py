"""The child process of `memory`: `python -m hemf_export.bench.memory_worker REQUEST` answers with one JSON line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from hemf_export.bench import contenders
from hemf_export.bench.lineup import Entry
from hemf_export.train.float32 import exact_float32


@exact_float32()
def main(request: str) -> None:
    """Load the entry, run a batch twice, and print the memory used as JSON."""
    values = json.loads(request)
    entry = Entry.from_dict(values["entry"])
    torch.set_num_threads(values["threads"])
    before, gpu_free = _status("VmRSS"), _gpu_free(entry)
    pixels = np.zeros((values["batch"], entry.input.height, entry.input.width, 3), np.uint8)
    work = contenders.open_entry(entry, threads=values["threads"]).prepare(pixels)
    for _ in range(2):
        work.run()
    gpu = None if gpu_free is None else gpu_free - (_gpu_free(entry) or 0)
    print(json.dumps({"peak_rss_bytes": _status("VmHWM"), "imports_rss_bytes": before, "gpu_bytes": gpu}))  # noqa: T201


def _status(name: str) -> int:
    """Read bytes from /proc: getrusage would report the parent's peak if that was larger at the fork."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(match[1]) * 1024


def _gpu_free(entry: Entry) -> int | None:
    return int(torch.cuda.mem_get_info()[0]) if entry.device == "cuda" else None


if __name__ == "__main__":
    main(*sys.argv[1:])
