"""ONNX Runtime sessions on the CPU: made from graphs in memory or files, with any of their values as outputs.

A graph in memory is handed over as a small message, its weights beside it: there is no second copy of them.
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

MOST_AT_ONCE = 4  # batches that run side by side: each holds its own activations

_LONGEST_REASON = 400
_SILENT = 4  # ONNX Runtime's own log, fatal errors apart: what it fails with is raised, and reported once
_LEAST_BYTES = 1 << 12  # of what counts as a weight
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)
_FILE = "beside the graph"  # what the message calls the file of its weights: there is none


def runtime() -> Any:
    """Import ONNX Runtime with its telemetry off. Nothing else of ours imports it, but what a server runs.

    `hemf` has told it so by its environment before; a program that imported it earlier is told by this call.
    """
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def loadable(path: Path) -> str | bytes:
    """Return what ONNX Runtime loads a file from: its path, or its bytes where the path is no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


class Session:
    """A graph in ONNX Runtime on the CPU, which takes one input.

    Args:
        model: a file or a graph in memory.
        outputs: values to fetch, by name; by default the graph's own first output.
        threads: within an operator; see `files.processors.threads` for the default.
        stream: whether many batches are to come, see `stream`: these run side by side, and divide the threads.
        as_written: whether quantization is computed node by node. By default ONNX Runtime makes integer products of it,
            and rounds float32 weights behind a DequantizeLinear to int8, with one scale for all channels.
        name: what errors call the graph; a file's path by default.
        output: what the numbers of the first output are.

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
        # By default the threads of a session go on spinning after each run, and would slow down whoever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if as_written:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._weights: list[Any] = []  # ONNX Runtime takes them where they lie: they have to live as long
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
        """Return the outputs for one input, in the order asked for; some of them alone, so that no others are held.

        Raises:
            BadInputError: the graph fails on this input.
        """
        try:
            arrays: list[NDArray[Any]] = self._session.run(outputs or self.outputs, {self.input_name: batch})
        except Exception as error:
            # ONNX Runtime's errors have no class of their own: what a graph fails with is the graph's, or the memory's.
            raise self._failure(error, batch) from error
        return arrays

    def stream(
        self, batches: Iterable[NDArray[np.generic]], outputs: Sequence[str] | None = None
    ) -> Iterator[tuple[NDArray[np.generic], list[NDArray[Any]]]]:
        """Yield each batch with its outputs, in order; see `run`.

        Where many images are run, a core for each batch is used better than all cores for one: they wait for each other
        after every operator.

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
        """Serialize a graph in memory, whose weights are given to `options` as they lie: copies take seconds."""
        onnxruntime = runtime()
        proto, weights = skeleton(model, outputs or ())
        known = model.graph.initializers  # those that nothing uses are dropped before they could be handed over
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
        """ONNX Runtime's own word for the type of each output of the graph, such as `tensor(float)`, by name."""
        return {output.name: output.type for output in self._session.get_outputs()}

    def logits(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the first output alone, as scores (images, classes): logits, or what the graph gives instead."""
        return self.output.scores(self.run(batch)[0], len(batch))


def reason(error: Exception) -> str:
    """ONNX Runtime's message on one line, without its codes and source positions."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r" ?/\S+\.(?:cc|h):\d+ [^:]*(?:::\S+)*\([^)]*\)[^:]*? (?=[A-Z'\"(])", " ", text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


def skeleton(model: ir.Model, outputs: Sequence[str] = ()) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """Serialize a model without its weights, and return these by name, not copied; the model stays as it was.

    In the message a weight is an initializer whose data lies in another file, as ONNX Runtime wants it where it is
    given the weight itself.

    Args:
        model: weights are its initializers.
        outputs: names of values that become outputs beside the graph's own.
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
