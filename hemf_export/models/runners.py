"""One interface over what can compute scores: PyTorch and ONNX Runtime; `engines.runner` has TensorRT's."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from hemf_export.calibration.session import Session
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.networks.model import HEMF


class Runner(Protocol):
    """Computes scores: logits, or the probabilities that a file gives in their place; see `files.model_output`.

    `name` tells it from others in a report.
    """

    name: str

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input, as the description of the model says → scores (N, classes)."""
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
    """An ONNX file, or a graph in memory, in ONNX Runtime on the CPU.

    Args:
        source: the file or the graph.
        name: for reports; the file's name by default.
        threads: within an operator.
        output: what the file's numbers are.

    Raises:
        BadInputError: ONNX Runtime doesn't take the file.
    """

    def __init__(
        self,
        source: Path | ir.Model,
        name: str | None = None,
        *,
        threads: int | None = None,
        output: ModelOutput = LOGITS,
    ) -> None:
        self._session = Session(source, threads=threads, output=output)
        self.name = name or (source.name if isinstance(source, Path) else "ONNX Runtime")

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The file's input, of any batch that it takes → scores."""
        return self._session.logits(batch)
