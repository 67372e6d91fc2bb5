"""The part of the fake TensorRT that computes: the ONNX file of a plan in ONNX Runtime, between raw pointers.

As on a GPU, nothing is computed before a stream is waited for: see `fake_cuda`.
"""

from __future__ import annotations

import ctypes
import enum
import json
from typing import TYPE_CHECKING

import numpy as np

from tests.engines.fake_network import say, told
from tests.engines.fake_records import Alone, give, records, streams

if TYPE_CHECKING:
    from tests.engines.fake_runtime import ICudaEngine

CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE", start=0)
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE", start=0
)
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32}


class IProfiler:
    def __init__(self) -> None:
        self._made = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self._engine, self._config = engine, config
        self._alone = Alone("a context is used")
        self._profile, self._shape = 0, tuple(engine._tensors[engine._input]["shape"])
        self._addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None
        records.contexts.append(self)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._alone:
            if stream_handle not in (0, *streams) or not 0 <= profile_index < len(self._engine._profiles):
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
                self._config._compile(shape[0])

            source, target = addresses[engine._input], addresses[engine._output]
            # Besides its tensors, an execution writes the context's scratch memory.
            give(
                stream_handle, shape[0], lambda: _compute(engine, shape, source, target),
                reads=[source], writes=[target, self],
            )  # fmt: skip
            if self.profiler is not None:
                for place, (name, kind, _) in enumerate(engine._values["layers"], 1):
                    self.profiler.report_layer_time(name, place * 0.5 * (1 + (kind == "CAST")))
            return True


def _compute(engine: ICudaEngine, shape: tuple[int, ...], source: int, target: int) -> None:
    kind = np.dtype(_TYPES[engine._tensors[engine._input]["type"]])
    data = ctypes.string_at(source, int(np.prod(shape)) * kind.itemsize)
    feed = {engine._input: np.frombuffer(data, kind).reshape(shape)}
    found = np.ascontiguousarray(engine._session.run([engine._output], feed)[0])
    if told("nan"):
        found = np.full_like(found, np.nan)
    ctypes.memmove(target, found.ctypes.data, found.nbytes)


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self._cache = IRuntimeCache()

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def _compile(self, size: int) -> None:
        """Compile the kernels of a batch size: at once, or else later, and run others, as the strategy says."""
        if self.dynamic_shapes_kernel_specialization_strategy.name == "EAGER":
            self._cache._compile(size)
        else:
            records.run_on_fallback_kernels.append(size)


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
