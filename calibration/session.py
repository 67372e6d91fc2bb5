"""ONNX Runtime sessions on the CPU: made from graphs in memory or files, with any of their values as outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf.errors import BadInputError

# Beyond it, protobuf takes no message: such a model would have to go through files.
MAX_MODEL_BYTES = 2**31 - 1


def runtime() -> Any:
    """ONNX Runtime, which tells nobody that it runs. Nothing else of ours imports it, but what a server runs.

    `hemf` has told it so by its environment before; a program that imported it earlier is told by this call.
    """
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


class Session:
    """A graph in ONNX Runtime on the CPU, which takes one input.

    Args:
        model: a file or a graph in memory.
        outputs: values to fetch, by name; by default the graph's own first output.
        threads: within an operator; all usable cores by default.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph.
    """

    def __init__(
        self,
        model: Path | ir.Model,
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # By default the threads of a session go on spinning after each run, and would slow down whoever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        source: Any = str(model) if isinstance(model, Path) else _serialized(model, outputs)
        shown = str(model) if isinstance(model, Path) else "the graph"
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInputError(f"ONNX Runtime doesn't take {shown}: {reason}", "Export it again.") from error
        self.input_name = self._session.get_inputs()[0].name
        self.outputs = list(outputs) if outputs is not None else [self._session.get_outputs()[0].name]

    def run(self, batch: NDArray[np.generic], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs for one input, in the order asked for; some of them alone, so that no others are held."""
        found: list[NDArray[Any]] = self._session.run(outputs or self.outputs, {self.input_name: batch})
        return found

    def logits(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The first output alone."""
        first: NDArray[np.float32] = self.run(batch)[0]
        return first


def _serialized(model: ir.Model, outputs: Sequence[str] | None) -> bytes:
    """The model's bytes, with `outputs` beside its own; the model itself stays as it was."""
    graph, own = model.graph, len(model.graph.outputs)
    known = {value.name for value in graph.outputs}
    wanted = {name for name in outputs or () if name not in known}
    values = {value.name: value for node in graph for value in node.outputs if value.name in wanted}
    try:
        graph.outputs.extend(values[name] for name in values)
        data = ir.serde.serialize_model(model)
    finally:
        del graph.outputs[own:]
    if data.ByteSize() > MAX_MODEL_BYTES:
        raise BadInputError("The graph is larger than 2 GB, which one ONNX file can't hold.")
    return data.SerializeToString()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
