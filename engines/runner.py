"""Run an engine: batches of any size, from any thread, as numpy arrays or PyTorch tensors → logits."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export.engines import caches
from hemf_export.engines.device import Device
from hemf_export.engines.runtime import Loaded
from hemf_export.engines.tensors import Interface, interface
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError, UsageError
from hemf_export.files.model_output import ModelOutput

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import IExecutionContext

CONTEXTS = 4
_KEPT_SIZES = 8  # batch sizes whose buffers and graph are kept; the least recently used makes room


class EngineRunner:
    """Runs an engine. Up to `contexts` threads run at the same time, each on its own CUDA stream; others wait.

    Args:
        loaded: the engine.
        device: the GPU to run it on.
        gpu: the GPU's product name.
        cuda_graphs: launch each batch size as one captured graph.
        contexts: number of execution contexts; each holds the engine's scratch memory.

    Attributes:
        name: for reports.
        interface: input, output and batch sizes.
        output: what the engine outputs: logits or probabilities, one per class or a single one.
        notes: what a user should know, such as caches that couldn't be used.
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
        # TensorRT-RTX compiles kernels on the target, at the first run of each batch size, and captures graphs itself.
        rtx = loaded.backend.name == "tensorrt-rtx"
        self._runtime_cache = _RuntimeCache(loaded, gpu, self.notes) if rtx else None

    @overload
    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]: ...

    @overload
    def infer(self, batch: Tensor) -> Tensor: ...

    def infer(self, batch: NDArray[np.generic] | Tensor) -> NDArray[np.float32] | Tensor:
        """Network input, as the manifest describes it → scores (N, classes) float32: logits or probabilities.

        A batch over the largest profile is run in parts. A tensor's scores lie on the tensor's device.

        Raises:
            BadInputError: another shape or type, or a batch size that the profiles don't take.
        """
        tensor = batch if isinstance(batch, Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
        self.interface.input.require(tensor)
        sizes = self.interface.parts(len(tensor))
        with self._free:
            execution = self._acquire()
            try:
                outputs = torch.cat([execution.run(part) for part in torch.split(tensor, sizes)])
            finally:
                self._idle.put(execution)
        self._save_compiled(set(sizes))
        scores = self.output.tensor_scores(outputs)
        return scores if isinstance(batch, Tensor) else scores.numpy()

    def close(self) -> None:
        """Free contexts and buffers; the runner can't be used any more."""
        while not self._idle.empty():
            self._idle.get_nowait()

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _acquire(self) -> Execution:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return Execution(
                self._new_context, self.interface, self._device,
                cuda_graphs=self._cuda_graphs and self._runtime_cache is None,
                reason=lambda: "; ".join(self._loaded.messages) or "it gives no reason",
            )  # fmt: skip

    def _new_context(self) -> IExecutionContext | None:
        with self._lock:  # execution contexts of an engine have to be created one at a time
            if self._runtime_cache is None:
                return self._loaded.engine.create_execution_context()
            return self._runtime_cache.context(self._cuda_graphs)

    def _save_compiled(self, sizes: set[int]) -> None:
        if self._runtime_cache is None or sizes <= self._sizes:
            return
        with self._lock:
            self._sizes |= sizes
            self._runtime_cache.save()


@dataclass
class _Slot:
    """The buffers of one batch size, and the function that runs the engine on them."""

    input: Tensor
    output: Tensor
    host_input: Tensor
    host_output: Tensor
    launch: Callable[[], None]


class Execution:
    """Runs batches one after the other: an execution context per profile, with its stream, buffers and CUDA graphs.

    Only one thread may use it at a time.

    Args:
        new_context: creates an `IExecutionContext`; called once per profile.
        interface: the engine's.
        device: the GPU to run on.
        cuda_graphs: capture each batch size once and launch it as one graph.
        reason: TensorRT's last messages, for an error.
    """

    def __init__(
        self,
        new_context: Callable[[], IExecutionContext | None],
        interface: Interface,
        device: Device,
        *,
        cuda_graphs: bool,
        reason: Callable[[], str],
    ) -> None:
        self._new_context, self._interface, self._device = new_context, interface, device
        self._cuda_graphs, self._reason = cuda_graphs, reason
        self._stream = device.stream()
        # A context keeps its profile: graphs that were captured with it stay valid.
        self._contexts: dict[int, IExecutionContext] = {}
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def run(self, batch: Tensor) -> Tensor:
        """A batch that fits a profile → outputs, on the batch's device, in memory of their own."""
        device, stream = self._device, self._stream
        slot = self._slot(len(batch))
        if batch.device == slot.input.device and batch.device.type != "cpu":
            device.follow(stream)
            with device.on(stream):
                slot.input.copy_(batch, non_blocking=True)
            batch.record_stream(stream)
            slot.launch()
            with device.on(stream):
                logits = slot.output.clone()
            device.lead(stream)
            logits.record_stream(stream)
            return logits
        slot.host_input.copy_(batch)
        with device.on(stream):
            slot.input.copy_(slot.host_input, non_blocking=True)
        slot.launch()
        with device.on(stream):
            slot.host_output.copy_(slot.output, non_blocking=True)
        device.wait(stream)
        return slot.host_output.clone().to(batch.device)

    def _slot(self, count: int) -> _Slot:
        if count in self._slots:
            self._slots.move_to_end(count)
            return self._slots[count]
        if len(self._slots) >= _KEPT_SIZES:
            self._device.wait(self._stream)
            self._slots.popitem(last=False)
        device, into, out = self._device, self._interface.input, self._interface.output
        shapes = (count, *into.shape), (count, *out.shape)
        slot = _Slot(
            device.empty(shapes[0], into.dtype), device.empty(shapes[1], out.dtype),
            device.pinned(shapes[0], into.dtype), device.pinned(shapes[1], out.dtype), lambda: None,
        )  # fmt: skip
        slot.input.zero_()
        device.follow(self._stream)
        index = self._interface.profile(count)
        assert index is not None, "batches are cut to fit"
        slot.launch = self._launcher(self._context(index), slot)
        self._slots[count] = slot
        return slot

    def _context(self, profile: int) -> IExecutionContext:
        if profile not in self._contexts:
            context = self._new_context()
            if context is None:
                raise HemfError(
                    f"TensorRT gives no execution context: {self._reason()}",
                    "The GPU's memory may be full: fewer contexts at once, or smaller batches.",
                )
            if profile and not context.set_optimization_profile_async(profile, self._device.handle(self._stream)):
                raise HemfError(f"TensorRT refuses optimization profile {profile}: {self._reason()}")
            self._contexts[profile] = context
        return self._contexts[profile]

    def _launcher(self, context: IExecutionContext, slot: _Slot) -> Callable[[], None]:
        into, out = self._interface.input.name, self._interface.output.name
        handle = self._device.handle(self._stream)

        def bind() -> None:
            accepted = (
                context.set_input_shape(into, tuple(slot.input.shape))
                and context.set_tensor_address(into, slot.input.data_ptr())
                and context.set_tensor_address(out, slot.output.data_ptr())
            )
            if not accepted:
                raise HemfError(f"TensorRT refuses a batch of {len(slot.input)}: {self._reason()}")

        def enqueue() -> None:
            if not context.execute_async_v3(handle):
                raise HemfError(f"TensorRT can't run a batch of {len(slot.input)}: {self._reason()}")

        def run() -> None:
            bind()
            enqueue()

        # The first run of a batch size does work that must not be captured, such as allocations.
        run()
        self._device.wait(self._stream)
        return self._device.capture(self._stream, enqueue) if self._cuda_graphs else run


def _output(loaded: Loaded) -> ModelOutput:
    """Return the kind of output that the manifest records; logits if it records none."""
    try:
        return ModelOutput(loaded.manifest.get("output_type", "logits"))
    except ValueError as error:
        raise BadInputError(f"The manifest of {loaded.path}: {error}.", "Build the engine again.") from error


class _RuntimeCache:
    """TensorRT-RTX's kernels as compiled for this GPU, saved beside the engine for the next start."""

    def __init__(self, loaded: Loaded, gpu: str, notes: list[str]) -> None:
        self._trt = loaded.backend.rtx
        self._engine, self._notes = cast("tensorrt_rtx_bindings.ICudaEngine", loaded.engine), notes
        self._path: Path = caches.runtime_cache_path(loaded.path, artifacts.cache_folder(), gpu)
        self._cache = self._engine.create_runtime_config().create_runtime_cache()
        data, damaged = caches.read(self._path)
        if damaged:
            notes.append(damaged)
        if data and not self._cache.deserialize(data):
            notes.append(f"TensorRT-RTX refuses the runtime cache {self._path}; a new one is begun.")
        self._saved = data

    def context(self, cuda_graphs: bool) -> IExecutionContext | None:
        """Create an execution context that uses the cache."""
        config = self._engine.create_runtime_config()
        config.set_runtime_cache(self._cache)
        strategy = self._trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if cuda_graphs else strategy.DISABLED
        return cast("IExecutionContext | None", self._engine.create_execution_context(config))

    def save(self) -> None:
        """Write the cache if anything was compiled since."""
        data = bytes(self._cache.serialize())
        if data == self._saved:
            return
        try:
            caches.write(self._path, data)
            self._saved = data
        except BadInputError as error:
            self._notes.append(f"Compiled kernels were not saved: {error.message}")
