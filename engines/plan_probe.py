"""The child process that tries a plan: `python -m hemf_export.engines.plan_probe PLAN BACKEND`. It may crash alone.

Only whether it survives counts: what is wrong with a plan is told by the process that asked, which tries it next.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hemf_export.engines import backends


def main(plan: str, name: str) -> int:
    """Deserialize the plan and throw it away."""
    backend = backends.load("tensorrt" if name == "tensorrt" else "tensorrt-rtx")
    trt = backend.bindings
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    runtime.deserialize_cuda_engine(Path(plan).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
