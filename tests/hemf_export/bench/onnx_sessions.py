"""Real ONNX Runtime sessions that fail as those on a GPU do: in a provider, in a kernel, for lack of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from tests.hemf_export.triton.models import means

Session = onnxruntime.InferenceSession
GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class Sessions:
    """Stand-in for `InferenceSession`: sessions on the CPU, which say that they have the providers asked for.

    The rest is ONNX Runtime's own Python, with its way of falling back (onnxruntime_inference_collection.py 1.31: where
    creating a session fails with ValueError or RuntimeError, or a run with EPFail, it prints "EP Error" and makes the
    session anew with CUDA or the CPU, unless fallback is disabled).

    Args:
        failing_runs: errors of the provider, EPFail, one for each run from the first on; then it computes.
        creating: error of creating a session with a GPU's provider.
    """

    def __init__(self, failing_runs: Sequence[str] = (), creating: Exception | None = None) -> None:
        self.failing_runs, self.creating = list(failing_runs), creating
        self.asked: list[Any] = []
        sessions = self

        class OnTheCpu(Session):  # type: ignore[misc, valid-type]
            def _create_inference_session(self, providers: Any, *rest: Any) -> None:
                sessions.asked.append(providers)
                if providers == ["CPUExecutionProvider"]:  # ours of kind ort-cpu
                    super()._create_inference_session(providers, *rest)
                    return
                names = [one if isinstance(one, str) else one[0] for one in providers]
                self._fallback_providers = names[1:] or ["CPUExecutionProvider"]
                if sessions.creating is not None and names[0] != "CPUExecutionProvider":
                    error, sessions.creating = sessions.creating, None
                    raise error
                super()._create_inference_session(["CPUExecutionProvider"], *rest)
                self._fallback_providers = names[1:] or ["CPUExecutionProvider"]
                self._providers = [*names, "CPUExecutionProvider"]
                self._sess = _Native(self._sess, sessions.failing_runs)

        self.factory = OnTheCpu

    def install(self, patch: pytest.MonkeyPatch) -> Sessions:
        """Let this process's ONNX Runtime make such sessions."""
        patch.setattr(onnxruntime, "InferenceSession", self.factory)
        patch.setattr(onnxruntime, "get_available_providers", lambda: list(GPU))
        return self


class _Native:
    """The native part of a session, whose first runs fail."""

    def __init__(self, native: Any, failing_runs: list[str]) -> None:
        self._native, self._failing_runs = native, failing_runs

    def run(self, *arguments: Any) -> Any:
        if self._failing_runs:
            raise EPFail(self._failing_runs.pop(0))
        return self._native.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


def of_one_batch(folder: Path, batch: int) -> Path:
    """A file with the batch that it was traced with in a Reshape: its kernel fails for another."""
    return _followed(folder / f"only-{batch}.onnx", "Reshape", np.array([batch, 3]))


def of_too_much_memory(folder: Path) -> Path:
    """A file that asks for 400 TB."""
    return _followed(folder / "huge.onnx", "Expand", np.array([1 << 45, 1, 3]))


def _followed(path: Path, operator: str, shape: np.ndarray) -> Path:
    """The means of the channels, followed by an operator with a constant second input."""
    model = onnx.load(means(path))
    model.graph.node[-1].output[0] = "all"
    model.graph.node.append(onnx.helper.make_node(operator, ["all", "shape"], ["logits"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return path
