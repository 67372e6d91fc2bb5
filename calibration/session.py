"""ONNX Runtime sessions on the CPU, for graphs in memory or files, with any of their values as outputs.

A graph in memory is passed on as a small protobuf message with its weights beside it, which are never copied.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.files import processors
from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import LOGITS, ModelOutput

MOST_AT_ONCE = 4  # batches that run concurrently: each holds its own activations

_LONGEST_REASON = 400
_SILENT = 4  # fatal errors only: other errors of ONNX Runtime are raised, and reported once
_LEAST_BYTES = 1 << 12  # smallest size of a weight
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)
_FILE = "beside the graph"  # placeholder for the file of external weights: there is none


def runtime() -> Any:
    """Import ONNX Runtime with its telemetry off. Only code that a Triton server runs imports it otherwise.

    `hemf` has disabled telemetry by environment variable already; the call covers programs that imported it earlier.
    """
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def loadable(path: Path) -> str | bytes:
    """Return what ONNX Runtime loads a file from: its path, or its bytes where the path isn't valid UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


class Session:
    """Session of ONNX Runtime on the CPU for a graph with one input.

    Args:
        model: a file or a graph in memory.
        outputs: names of the values to fetch; None for the graph's first output.
        threads: threads within an operator; None for `files.processors.threads`.
        stream: divide the threads among batches that run concurrently, see `stream`.
        as_written: compute quantization node by node. By default ONNX Runtime fuses it into integer products, and
            rounds float32 weights behind a DequantizeLinear to int8, with one scale for all channels.
        name: name of the graph in errors; None for a file's path.
        output: kind of the first output.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph.
    """

    def __init__(
        self,
        model: Path | ir.Model,
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        stream: bool = False,
        as_written: bool = False,
        name: str | None = None,
        output: ModelOutput = LOGITS,
    ) -> None:
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        threads = threads or processors.threads()
        self._at_once = min(threads, MOST_AT_ONCE) if stream else 1
        options.intra_op_num_threads = threads // self._at_once
        options.log_severity_level = _SILENT
        # By default a session's threads go on spinning after each run, which would slow down the next one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if as_written:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._weights: list[
            Any
        ] = []  # ONNX Runtime uses these buffers without a copy: they must live as long as the session
        source: Any = loadable(model) if isinstance(model, Path) else self._handed_over(model, outputs, options)
        self.name = name or (str(model) if isinstance(model, Path) else "the graph")
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadInputError(
                f"ONNX Runtime doesn't take {self.name}: {reason(error)}", "Export it again."
            ) from error
        self.output = output
        first_input = self._session.get_inputs()[0]
        self.input_name = first_input.name
        self.any_batch = not (first_input.shape and isinstance(first_input.shape[0], int))
        self.outputs = list(outputs) if outputs is not None else [self._session.get_outputs()[0].name]

    def run(self, batch: NDArray[np.generic], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Return the outputs for one input, in the order of `outputs`; a subset of the session's saves memory.

        Raises:
            BadInputError: the graph fails on this input.
        """
        try:
            arrays: list[NDArray[Any]] = self._session.run(outputs or self.outputs, {self.input_name: batch})
        except Exception as error:
            # ONNX Runtime's errors have no class of their own: the graph is at fault, or memory ran out.
            raise self._failure(error, batch) from error
        return arrays

    def stream(
        self, batches: Iterable[NDArray[np.generic]], outputs: Sequence[str] | None = None
    ) -> Iterator[tuple[NDArray[np.generic], list[NDArray[Any]]]]:
        """Yield each batch with its outputs, in order; see `run`.

        One core per batch is faster than all cores for one batch, which synchronize after every operator.

        Raises:
            BadInputError: the graph fails on a batch.
        """
        if self._at_once == 1:
            for batch in batches:
                yield batch, self.run(batch, outputs)
            return
        with ThreadPoolExecutor(self._at_once) as pool:
            waiting: deque[tuple[NDArray[np.generic], Future[list[NDArray[Any]]]]] = deque()
            try:
                for batch in batches:
                    waiting.append((batch, pool.submit(self.run, batch, outputs)))
                    if len(waiting) > self._at_once:
                        first, result = waiting.popleft()
                        yield first, result.result()
                while waiting:
                    first, result = waiting.popleft()
                    yield first, result.result()
            finally:
                for _, result in waiting:
                    result.cancel()

    def _handed_over(self, model: ir.Model, outputs: Sequence[str] | None, options: Any) -> bytes:
        """Serialize a graph in memory without its weights, which `options` gets without a copy: copies take seconds."""
        onnxruntime = runtime()
        proto, weights = skeleton(model, outputs or ())
        known = model.graph.initializers  # ONNX Runtime drops unused ones before they could be passed on
        weights = {
            name: array for name, array in weights.items() if known[name].uses() or known[name].is_graph_output()
        }
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        self._weights = [weights, values]
        data: bytes = proto.SerializeToString()
        return data

    def _failure(self, error: Exception, batch: NDArray[np.generic]) -> BadInputError:
        hint = "Export the model again; if ONNX Runtime ran out of memory, free some."
        if self.any_batch and len(batch) > 1:
            hint = (
                "The file says that it takes any batch: is the batch it was traced with still in a Reshape or Expand? "
                "Export it again with a batch that is free everywhere, or say the batch in its input."
            )
        return BadInputError(f"ONNX Runtime can't run {self.name} on a batch of {len(batch)}: {reason(error)}", hint)

    def types(self) -> dict[str, str]:
        """Return ONNX Runtime's type of each output of the graph, such as `tensor(float)`, by name."""
        return {output.name: output.type for output in self._session.get_outputs()}

    def logits(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the first output for a batch as scores (images, classes): logits, or probabilities."""
        return self.output.scores(self.run(batch)[0], len(batch))


def reason(error: Exception) -> str:
    """Return ONNX Runtime's message on one line, without its codes and source positions."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r" ?/\S+\.(?:cc|h):\d+ [^:]*(?:::\S+)*\([^)]*\)[^:]*? (?=[A-Z'\"(])", " ", text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


def skeleton(model: ir.Model, outputs: Sequence[str] = ()) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """Serialize a model without its weights; return the message and the weights by name, not copied.

    In the message a weight is an initializer with external data, as ONNX Runtime requires for weights passed in memory.
    The model isn't changed.

    Args:
        model: its weights are initializers.
        outputs: names of values that become outputs in addition to the graph's own.
    """
    graph, own = model.graph, len(model.graph.outputs)
    known = {value.name for value in graph.outputs}
    wanted = {name for name in outputs if name not in known}
    values = {value.name: value for node in graph for value in node.outputs if value.name in wanted}
    tensors = {
        name: tensor
        for name, value in graph.initializers.items()
        if (tensor := value.const_value) is not None and tensor.dtype in _TYPES and tensor.nbytes >= _LEAST_BYTES
    }
    try:
        for name, tensor in tensors.items():
            graph.initializers[name].const_value = ir.ExternalTensor(
                _FILE, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
        graph.outputs.extend(values[name] for name in values)
        proto: onnx.ModelProto = ir.serde.serialize_model(model)
    finally:
        for name, tensor in tensors.items():
            graph.initializers[name].const_value = tensor
        while len(graph.outputs) > own:  # a deleted slice would leave them marked as outputs
            graph.outputs.pop()
    return proto, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
