"""Engine + batches → logits: any batch, any thread, numpy arrays or PyTorch tensors."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export.engines import caches
from hemf_export.engines.device import Device
from hemf_export.engines.execution import Execution
from hemf_export.engines.runtime import Loaded
from hemf_export.engines.tensors import Interface, interface
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.model_output import ModelOutput

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import IExecutionContext

CONTEXTS = 4


class EngineRunner:
    """Runs an engine. Up to `contexts` threads run at the same time, each on a stream of its own; others wait.

    Args:
        loaded: the engine.
        device: that it runs on.
        gpu: its product name.
        cuda_graphs: launch each batch size as one captured graph.
        contexts: at most so many at once; each holds the engine's scratch memory.

    Attributes:
        name: for reports.
        interface: input, output and batches.
        output: what the engine's numbers are; what `infer` gives is made of them.
        notes: what a user should know, caches that couldn't be used among them.
    """

    def __init__(
        self, loaded: Loaded, device: Device, gpu: str, *, cuda_graphs: bool = True, contexts: int = CONTEXTS
    ) -> None:
        if contexts < 1:
            raise UsageError(f"At least one context is needed, not {contexts}.")
        self.name = f"{loaded.backend.name} {loaded.backend.version}, {loaded.path.name}"
        self.notes: list[str] = [*loaded.notes]
        self.interface: Interface = interface(loaded.engine, loaded.path)
        self.manifest = loaded.manifest
        self.output = _output(loaded)
        self._loaded, self._device, self._cuda_graphs = loaded, device, cuda_graphs
        self._idle: queue.LifoQueue[Execution] = queue.LifoQueue()
        self._free = threading.BoundedSemaphore(contexts)
        self._lock = threading.Lock()
        self._sizes: set[int] = set()
        # TensorRT-RTX compiles its kernels on the target, at the first run of each size, and captures graphs itself.
        rtx = loaded.backend.name == "tensorrt-rtx"
        self._runtime_cache = _RuntimeCache(loaded, gpu, self.notes) if rtx else None

    @overload
    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]: ...

    @overload
    def infer(self, batch: Tensor) -> Tensor: ...

    def infer(self, batch: NDArray[np.generic] | Tensor) -> NDArray[np.float32] | Tensor:
        """Network input, as the manifest describes it → scores (N, classes) float32: logits, or what the engine gives.

        A batch over the largest profile is run in parts. A tensor's scores lie on the tensor's device.

        Raises:
            BadInputError: another shape or type, or a batch that no parts of fit the profiles; the range is told.
        """
        given = batch if isinstance(batch, Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
        self.interface.input.require(given)
        sizes = self.interface.parts(len(given))
        with self._free:
            execution = self._take()
            try:
                found = torch.cat([execution.run(part) for part in torch.split(given, sizes)])
            finally:
                self._idle.put(execution)
        self._keep_compiled(set(sizes))
        scores = self.output.tensor_scores(found)
        return scores if isinstance(batch, Tensor) else scores.numpy()

    def close(self) -> None:
        """Give back contexts and buffers; the runner can't be used any more."""
        while not self._idle.empty():
            self._idle.get_nowait()

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _take(self) -> Execution:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return Execution(
                self._new_context, self.interface, self._device,
                cuda_graphs=self._cuda_graphs and self._runtime_cache is None,
                reason=lambda: "; ".join(self._loaded.messages) or "it gives no reason",
            )  # fmt: skip

    def _new_context(self) -> IExecutionContext | None:
        with self._lock:  # TensorRT makes contexts of an engine one at a time
            if self._runtime_cache is None:
                return self._loaded.engine.create_execution_context()
            return self._runtime_cache.context(self._cuda_graphs)

    def _keep_compiled(self, sizes: set[int]) -> None:
        if self._runtime_cache is None or sizes <= self._sizes:
            return
        with self._lock:
            self._sizes |= sizes
            self._runtime_cache.save()


def _output(loaded: Loaded) -> ModelOutput:
    """The kind of scores that the engine gives, by its manifest; logits where that says nothing."""
    try:
        return ModelOutput(loaded.manifest.get("output_type", "logits"))
    except ValueError as error:
        raise BadInputError(f"The manifest of {loaded.path}: {error}.", "Build the engine again.") from error


class _RuntimeCache:
    """TensorRT-RTX's kernels as compiled for this GPU, kept beside the engine for the next start."""

    def __init__(self, loaded: Loaded, gpu: str, notes: list[str]) -> None:
        self._trt = loaded.backend.rtx
        self._engine, self._notes = cast("tensorrt_rtx_bindings.ICudaEngine", loaded.engine), notes
        self._path: Path = caches.runtime_place(loaded.path, artifacts.cache_folder(), gpu)
        self._cache = self._engine.create_runtime_config().create_runtime_cache()
        data, damaged = caches.read(self._path)
        if damaged:
            notes.append(damaged)
        if data and not self._cache.deserialize(data):
            notes.append(f"TensorRT-RTX doesn't take {self._path}; a new one is begun.")
        self._saved = data

    def context(self, cuda_graphs: bool) -> IExecutionContext | None:
        """A new execution context that uses the cache."""
        config = self._engine.create_runtime_config()
        config.set_runtime_cache(self._cache)
        strategy = self._trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if cuda_graphs else strategy.DISABLED
        return cast("IExecutionContext | None", self._engine.create_execution_context(config))

    def save(self) -> None:
        """Write what was compiled, if anything is new."""
        data = bytes(self._cache.serialize())
        if data == self._saved:
            return
        try:
            caches.write(self._path, data)
            self._saved = data
        except BadInputError as error:
            self._notes.append(f"Compiled kernels were not kept: {error.message}")
