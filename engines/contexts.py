"""Execution contexts of an engine, and TensorRT-RTX's runtime cache: the kernels that it compiled for this GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hemf_export.engines import caches
from hemf_export.engines.runtime import Loaded
from hemf_export.files.errors import BadInputError

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import IExecutionContext


class Contexts:
    """Creates the execution contexts of an engine, one at a time, as TensorRT requires.

    Args:
        loaded: the engine.
        cache: of compiled kernels; TensorRT-RTX alone.
        cuda_graphs: let TensorRT-RTX launch each batch size as one captured graph.
    """

    def __init__(self, loaded: Loaded, *, cache: RuntimeCache | None = None, cuda_graphs: bool = False) -> None:
        self._loaded, self._cache, self._cuda_graphs = loaded, cache, cuda_graphs
        self._lock = threading.Lock()

    def new(self) -> IExecutionContext | None:
        """Create a context; None where TensorRT creates none, and its messages have the reason."""
        with self._lock:
            if self._loaded.backend.name == "tensorrt-rtx":
                return self._new_of_rtx()
            return self._loaded.engine.create_execution_context()

    def _new_of_rtx(self) -> IExecutionContext | None:
        """Create a context that compiles the kernels of each new batch size before it runs it.

        TensorRT-RTX's default, LAZY, compiles them in the background and runs slower kernels, which round otherwise,
        meanwhile. Tests and measurements would be of those, and a cache that is saved after the first run would lack
        the compiled ones.
        """
        trt = self._loaded.backend.rtx
        engine = cast("tensorrt_rtx_bindings.ICudaEngine", self._loaded.engine)
        config = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._cuda_graphs else strategy.DISABLED
        if self._cache is not None:
            config.set_runtime_cache(self._cache.kernels)
        return cast("IExecutionContext | None", engine.create_execution_context(config))


class RuntimeCache:
    """TensorRT-RTX's kernels as compiled for this GPU, saved beside the engine for the next start.

    Args:
        loaded: the engine.
        gpu: the GPU's product name.
        note: receives what a user should know.

    Attributes:
        kernels: the `IRuntimeCache`.
    """

    def __init__(self, loaded: Loaded, gpu: str, note: Callable[[str], None]) -> None:
        engine = cast("tensorrt_rtx_bindings.ICudaEngine", loaded.engine)
        self._note = note
        self.kernels = engine.create_runtime_config().create_runtime_cache()
        self._path: Path | None = None
        self._saved = b""
        try:
            self._path = caches.runtime_cache_path(loaded.path, gpu)
        except BadInputError as error:
            note(f"Compiled kernels are not kept: {error}")
            return
        data, damaged = caches.read(self._path)
        if damaged:
            note(damaged)
        if data and not self.kernels.deserialize(data):
            note(f"TensorRT-RTX refuses the runtime cache {self._path}; a new one is begun.")
        self._saved = data

    def save(self) -> None:
        """Write the cache if anything was compiled since."""
        data = bytes(self.kernels.serialize())
        if self._path is None or data == self._saved:
            return
        try:
            caches.write(self._path, data)
            self._saved = data
        except BadInputError as error:
            self._note(f"Compiled kernels were not saved: {error.message}")
