"""The half of the fake TensorRT that runs: it computes the ONNX file of a plan in ONNX Runtime, between raw pointers.

As on a GPU, nothing is computed before a stream is waited for. What a caller does against the interface's rules, and
the fake lets pass as TensorRT would, stands in `records.misuse`.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.engines.fake_network import VERSIONS, DataType, read_plan, require_logger, say, structure, told

TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON", start=0)
EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE", start=0)
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32}


@dataclass
class Records:
    """What was done since the test began.

    Args:
        misuse: against the rules.
        deserialized: plans that native code was let loose on, and whether they might run code of their own on the host.
        contexts: that were made.
        compiled: batch sizes that TensorRT-RTX compiled kernels for, as its runtime cache had none.
        most_running: executions at the same time.
        pause_s: that an execution takes at least.
    """

    misuse: list[str] = field(default_factory=list)
    deserialized: list[tuple[bytes, bool]] = field(default_factory=list)
    contexts: list[IExecutionContext] = field(default_factory=list)
    compiled: list[int] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    pause_s: float = 0.0

    def clear(self) -> None:
        self.__dict__.update(vars(Records()))


records = Records()
streams: dict[int, deque[Callable[[], None]]] = {}  # work that waits, by the handle of its stream
_counting = threading.Lock()
_capture = threading.local()


@contextmanager
def capturing() -> Iterator[list[tuple[int, Callable[[], None]]]]:
    """Executions of this thread are listed, batch size and all, and not run."""
    _capture.launches = []
    try:
        yield _capture.launches
    finally:
        del _capture.launches


class _Alone:
    """Tells what is done from two threads at once."""

    def __init__(self, what: str) -> None:
        self._what, self._lock = what, threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            records.misuse.append(f"{self._what} in two threads at once")
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Runtime:
    _backend = "tensorrt"

    def __init__(self, logger: Any) -> None:
        self._logger = require_logger(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        records.deserialized.append((bytes(serialized_engine), self.engine_host_code_allowed))
        contents = read_plan(bytes(serialized_engine))
        own = self._backend, VERSIONS[self._backend]
        if told("no-engine") or (contents.backend, contents.version) != own:
            say(self._logger, "ERROR", "Serialization assertion plan->header.magicTag failed.")
            return None
        if "VERSION_COMPATIBLE" in contents.values["flags"] and not self.engine_host_code_allowed:
            say(self._logger, "ERROR", "The plan has code for the host, which is not allowed.")
            return None
        return ICudaEngine(contents.values, contents.graph, self)


class RtxRuntime(Runtime):
    _backend = "tensorrt-rtx"

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        if told("invalid"):
            return EngineValidity.INVALID, 32
        return (EngineValidity.SUBOPTIMAL if told("suboptimal") else EngineValidity.VALID), 0


class ICudaEngine:
    def __init__(self, values: dict[str, Any], graph: bytes, runtime: Runtime) -> None:
        self._values, self._runtime, self._logger = values, weakref.ref(runtime), runtime._logger
        self._tensors = {tensor["name"]: tensor for tensor in values["tensors"]}
        (self._input,), (self._output,) = (
            [name for name, tensor in self._tensors.items() if tensor["mode"] == mode] for mode in ("INPUT", "OUTPUT")
        )
        # A network of fixed shapes has a profile all the same.
        self._profiles = values["profiles"] or [[self._tensors[self._input]["shape"]] * 3]
        self._making = _Alone("contexts are made")
        self._session: Any = None
        if graph:
            self._take(graph)

    num_io_tensors = property(lambda self: len(self._tensors))
    num_optimization_profiles = property(lambda self: len(self._profiles))

    def _take(self, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self._tensors[name]["mode"]]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name]["type"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[profile_index]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._values)

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        with self._making:
            time.sleep(records.pause_s)
            if self._runtime() is None:
                records.misuse.append("the runtime is gone, its engine is used")
            if told("no-context") or self._session is None:
                say(self._logger, "ERROR", "OutOfMemory" if self._session else "The engine has no weights.")
                return None
            return IExecutionContext(self, runtime_config)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self._engine, self._config = engine, config
        self._alone = _Alone("a context is used")
        self._profile, self._shape = 0, tuple(engine._tensors[engine._input]["shape"])
        self._addresses: dict[str, int] = {}
        records.contexts.append(self)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._alone:
            if stream_handle not in streams or not 0 <= profile_index < len(self._engine._profiles):
                return False
            self._profile, self._shape = profile_index, tuple(self._engine._tensors[self._engine._input]["shape"])
            return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone:
            least, _, most = self._engine._profiles[self._profile]
            if len(shape) != len(least) or not all(map(lambda a, b, c: a <= b <= c, least, shape, most)):
                say(self._engine._logger, "ERROR", f"set_input_shape: {shape} is outside profile {self._profile}.")
                return False
            self._shape = tuple(shape)
            return name == self._engine._input

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone:
            self._addresses[name] = memory
            return name in self._engine._tensors and memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._alone:
            engine, shape, addresses = self._engine, self._shape, dict(self._addresses)
            if told("no-execution") or -1 in shape or set(addresses) != set(engine._tensors):
                say(engine._logger, "ERROR", f"executeV3: no kernel, or {shape} or an address is not set.")
                return False
            if stream_handle not in streams:
                records.misuse.append(f"{stream_handle} is no stream")
                return False
            if self._config is not None:
                self._config._cache._compile(shape[0])

            def compute() -> None:
                self._compute(shape, addresses[engine._input], addresses[engine._output])

            launches = getattr(_capture, "launches", None)
            streams[stream_handle].append(compute) if launches is None else launches.append((shape[0], compute))
            return True

    def _compute(self, shape: tuple[int, ...], source: int, target: int) -> None:
        with self._alone:
            with _counting:
                records.running += 1
                records.most_running = max(records.most_running, records.running)
            time.sleep(records.pause_s)
            kind = np.dtype(_TYPES[self._engine._tensors[self._engine._input]["type"]])
            data = ctypes.string_at(source, int(np.prod(shape)) * kind.itemsize)
            feed = {self._engine._input: np.frombuffer(data, kind).reshape(shape)}
            found = np.ascontiguousarray(self._engine._session.run([self._engine._output], feed)[0])
            if told("nan"):
                found = np.full_like(found, np.nan)
            ctypes.memmove(target, found.ctypes.data, found.nbytes)
            with _counting:
                records.running -= 1


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self._cache = IRuntimeCache()

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class IRuntimeCache:
    def __init__(self) -> None:
        self._sizes: set[int] = set()

    def _compile(self, size: int) -> None:
        if size not in self._sizes:
            records.compiled.append(size)
            self._sizes.add(size)

    def serialize(self) -> memoryview:
        return memoryview(json.dumps(sorted(self._sizes)).encode())

    def deserialize(self, blob: bytes) -> bool:
        try:
            self._sizes |= set(json.loads(bytes(blob)))
        except (ValueError, TypeError):
            return False
        return True


class EngineInspector:
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get_engine_information(self, format: Any) -> str:
        layers = self._values["layers"]
        if format != LayerInformationFormat.JSON:
            return "\n".join(name for name, _, _ in layers)
        if not self._values["detailed"]:
            return json.dumps({"Layers": [name for name, _, _ in layers]})
        entries = [
            {"Name": name, "LayerType": kind, "Outputs": [{"Name": name, "Format/Datatype": precision.capitalize()}]}
            for name, kind, precision in layers
        ]
        return json.dumps({"Layers": entries, "Bindings": []})


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: Any) -> None:
        self._engine, self._logger, self._graph = engine, require_logger(logger), b""

    def refit_cuda_engine(self) -> bool:
        if self._graph:
            self._engine._take(self._graph)
        return bool(self._graph)


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self._refitter, self._logger = refitter, require_logger(logger)

    def refit_from_file(self, model: str) -> bool:
        graph = Path(model).read_bytes()
        if structure(onnx.load_from_string(graph)) != self._refitter._engine._values["structure"]:
            say(self._logger, "ERROR", "The weights are of another network.")
            return False
        self._refitter._graph = graph
        return True
