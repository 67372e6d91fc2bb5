"""Runners, which compute scores, of PyTorch and ONNX Runtime; `engines.runner` has TensorRT's."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from hemf_export.calibration.session import Session
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.networks.network import memory_format


class Runner(Protocol):
    """Computes scores: logits, or probabilities for a model that outputs those; see `files.model_output`.

    `name` identifies it in reports.
    """

    name: str

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input, as the model's description says → scores (N, classes)."""
        ...


class TorchRunner:
    """Runs a network in PyTorch on the CPU: float32, in its memory format.

    Args:
        model: network in evaluation mode.
        name: name for reports.
    """

    def __init__(self, model: nn.Module, name: str = "PyTorch") -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """(N, 3, H, W) float32, normalized → logits."""
        images = torch.from_numpy(np.ascontiguousarray(batch)).to(memory_format=memory_format(self.model))
        logits: NDArray[np.float32] = self.model(images).numpy()
        return logits


class OnnxRunner:
    """Runs an ONNX file, or a graph in memory, in ONNX Runtime on the CPU.

    Args:
        source: the file or the graph.
        name: name for reports; by default the file's.
        threads: threads within an operator.
        output: meaning of the model's output.

    Raises:
        BadInputError: ONNX Runtime can't load the file.
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
        """Network input, of any batch size that the file takes → scores."""
        return self._session.logits(batch)
