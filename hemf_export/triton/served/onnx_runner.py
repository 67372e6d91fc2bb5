"""Runs an ONNX file with ONNX Runtime, for model.py. Copied beside it as hemf_runner.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# A server on a hospital's images tells nobody that it runs: said before ONNX Runtime is loaded, which reads it then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

if hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()
_SILENT = 3
_GROUP = Path("/sys/fs/cgroup")  # in a container, that of the container itself


def _cores_by_quota() -> int:
    """Cores that the container's quota allows, where that is less than all; 0 else, for ONNX Runtime's own choice."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of cgroup v2, and of v1
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
    """A session.

    Args:
        data: the file's bytes.
        manifest: of the file.
        settings: the model's parameters in config.pbtxt.
        gpu: number of the GPU to run on; None for the CPU.

    Attributes:
        sizes: (least, most) images of a batch, for each range that the file takes; none for any.
    """

    def __init__(self, data: bytes, manifest: dict[str, Any], settings: dict[str, str], gpu: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = int(settings.get("intra_op_thread_count", 0)) or _cores_by_quota()
        # By default the threads of a session go on spinning after each run, and would slow down the other instances.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        wanted = "CPUExecutionProvider" if gpu is None else "CUDAExecutionProvider"
        provider: Any = wanted if gpu is None else (wanted, {"device_id": gpu})
        if wanted not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this onnxruntime {onnxruntime.__version__} has no {wanted}")
        self._session = onnxruntime.InferenceSession(data, options, providers=[provider])
        if self._session.get_providers()[0] != wanted:  # it falls back to the CPU without a word
            raise RuntimeError(f"ONNX Runtime doesn't get {wanted} to run")
        self._input = self._session.get_inputs()[0].name
        fixed = manifest.get("batch")
        self.sizes: list[tuple[int, int]] = [] if fixed is None else [(fixed, fixed)]

    def run(self, batch: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """A batch of one of the sizes → logits."""
        logits: NDArray[np.floating[Any]] = self._session.run(None, {self._input: batch})[0]
        return logits
