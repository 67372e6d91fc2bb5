"""Run an ONNX file with ONNX Runtime for model.py, beside which this is copied as hemf_runner.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# No telemetry from a server with medical images: set before the import, when ONNX Runtime reads it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

if hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()
_SILENT = 3
_GROUP = Path("/sys/fs/cgroup")  # in a container, its own


def _cores_by_quota() -> int:
    """Return the cores allowed by the container's quota, if fewer than all; else 0, for ONNX Runtime's default."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, and v1
        try:
            time, period = (
                int(field) for name in names for field in (_GROUP / name).read_text(encoding="ascii").split()
            )
        except (OSError, ValueError):  # another system, or no limit
            continue
        if 0 < time < period * len(os.sched_getaffinity(0)):
            return max(1, time // period)
    return 0


class Runner:
    """Session of ONNX Runtime.

    Args:
        data: bytes of the file.
        manifest: manifest of the file.
        settings: the model's parameters in config.pbtxt.
        gpu: number of the GPU to run on; None for the CPU.

    Attributes:
        sizes: (smallest, largest) batch size for each range that the file takes; empty for any.
    """

    def __init__(self, data: bytes, manifest: dict[str, Any], settings: dict[str, str], gpu: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = int(settings.get("intra_op_thread_count", 0)) or _cores_by_quota()
        # By default a session's threads go on spinning after each run, which would slow down other instances.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        wanted = "CPUExecutionProvider" if gpu is None else "CUDAExecutionProvider"
        # float32 is float32, as the file was verified: TF32 is ONNX Runtime's default on newer GPUs.
        provider: Any = wanted if gpu is None else (wanted, {"device_id": gpu, "use_tf32": "0"})
        if wanted not in onnxruntime.get_available_providers():
            raise RuntimeError(
                f"this onnxruntime {onnxruntime.__version__} has no {wanted}, which an instance on a GPU needs: "
                "install onnxruntime-gpu in its place, or write the repository for the CPU"
            )
        if gpu is not None and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries as pip installs them, which the loader wouldn't find
        # Where the GPU fails, when it starts or in a run, ONNX Runtime would silently go on with the CPU, for good.
        self._session = onnxruntime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
        self._session.disable_fallback()
        if self._session.get_providers()[0] != wanted:
            raise RuntimeError(
                f"onnxruntime's {wanted} doesn't start: it needs the CUDA and cuDNN that onnxruntime "
                f"{onnxruntime.__version__} is made for, and a GPU"
            )
        self._input = self._session.get_inputs()[0].name
        fixed = manifest.get("batch")
        self.sizes: list[tuple[int, int]] = [] if fixed is None else [(fixed, fixed)]

    def run(self, batch: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """Compute the logits of a batch of a size in `sizes`."""
        logits: NDArray[np.floating[Any]] = self._session.run(None, {self._input: batch})[0]
        return logits

    def close(self) -> None:
        """Do nothing: a session keeps nothing."""
