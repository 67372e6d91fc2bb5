"""One interface over what can compute logits: PyTorch and ONNX Runtime here, engines later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hemf.errors import BadInputError
from hemf.model import HEMF


class Runner(Protocol):
    """Computes logits.

    `name` tells it from others in a report.
    """

    name: str

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input, as the description of the model says → logits (N, classes)."""
        ...


class TorchRunner:
    """A network in PyTorch, float32, channels-last, on the CPU.

    Args:
        model: in evaluation mode.
        name: for reports.
    """

    def __init__(self, model: HEMF, name: str = "PyTorch") -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """(N, 3, H, W) float32, normalized → logits."""
        images = torch.from_numpy(np.ascontiguousarray(batch)).to(memory_format=torch.channels_last)
        logits: NDArray[np.float32] = self.model(images).numpy()
        return logits


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the file.
        name: for reports; the file's name by default.
        threads: within an operator.

    Raises:
        BadInputError: ONNX Runtime doesn't take the file.
    """

    def __init__(self, path: Path, name: str | None = None, *, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # By default the threads of a session go on spinning after each run, and would slow down whoever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInputError(f"ONNX Runtime doesn't take {path}: {reason}", "Export it again.") from error
        self.name = name or path.name
        self.input_name = self.session.get_inputs()[0].name

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The file's input, of any batch that it takes → logits."""
        logits: NDArray[np.float32] = self.session.run(None, {self.input_name: batch})[0]
        return logits


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
