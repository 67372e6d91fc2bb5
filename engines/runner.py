"""Run an engine: batches of any size, from any thread, as numpy arrays or PyTorch tensors → logits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export.engines.contexts import Contexts, RuntimeCache
from hemf_export.engines.device import Device
from hemf_export.engines.execution import KEPT_SIZES, Execution
from hemf_export.engines.runtime import Loaded
from hemf_export.engines.tensors import Interface, interface
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.model_output import ModelOutput

CONTEXTS = 4


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
        notes: what a user should know, such as caches that couldn't be used, or batches without a CUDA graph.
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
        self._loaded, self._device = loaded, device
        self._note = partial(_add_once, self.notes)
        # TensorRT-RTX compiles kernels on the target, at the first run of each batch size, and captures graphs itself.
        rtx = loaded.backend.name == "tensorrt-rtx"
        self._runtime_cache = RuntimeCache(loaded, gpu, self._note) if rtx else None
        self._contexts = Contexts(loaded, cache=self._runtime_cache, cuda_graphs=cuda_graphs)
        self._cuda_graphs = cuda_graphs and not rtx
        self._idle: queue.LifoQueue[Execution] = queue.LifoQueue()
        self._count, self._free = contexts, threading.BoundedSemaphore(contexts)
        self._saving, self._warming = threading.Lock(), threading.Lock()
        self._sizes: set[int] = set()

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
            outputs = torch.cat([execution.run(part) for part in torch.split(tensor, sizes)])
            self._idle.put(execution)  # one that failed is not used again
        self._save_compiled(set(sizes))
        scores = self.output.tensor_scores(outputs)
        return scores if isinstance(batch, Tensor) else scores.numpy()

    def warm_up(self, sizes: Iterable[int] | None = None) -> None:
        """Create all contexts, and allocate, compile, run and capture batch sizes in each, before requests come.

        The first batch of a size does all that: it allocates memory, which stalls the whole GPU, and TensorRT-RTX
        compiles kernels for it. A server calls this before it is ready.

        Args:
            sizes: numbers of images per call; the optimum of each profile by default.

        Raises:
            BadInputError: a size that the profiles don't take.
            UsageError: more sizes than are kept.
        """
        wanted = [profile.optimum for profile in self.interface.profiles] if sizes is None else list(sizes)
        parts = sorted({part for size in wanted for part in self.interface.parts(size)})
        if len(parts) > KEPT_SIZES:
            raise UsageError(f"{len(parts)} batch sizes are to be warmed up, and {KEPT_SIZES} are kept.")
        with self._warming:  # two callers that each held half of the contexts would wait forever
            for _ in range(self._count):
                self._free.acquire()
            try:
                executions = [self._acquire() for _ in range(self._count)]
                for execution in executions:
                    execution.prepare(parts)
                    self._idle.put(execution)
            finally:
                self._free.release(self._count)
        self._save_compiled(set(parts))

    def close(self) -> None:
        """Keep the kernels that were compiled, and free contexts and buffers; the runner can't be used any more."""
        if self._runtime_cache is not None:
            with self._saving:
                self._runtime_cache.save()
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
            # Nothing of it refers to this runner: in a cycle it might be destroyed while another engine is captured.
            return Execution(
                self._contexts.new, self.interface, self._device, cuda_graphs=self._cuda_graphs,
                reason=self._loaded.reason, note=self._note,
            )  # fmt: skip

    def _save_compiled(self, sizes: set[int]) -> None:
        if self._runtime_cache is None or sizes <= self._sizes:
            return
        with self._saving:
            self._sizes |= sizes
            self._runtime_cache.save()


def _add_once(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def _output(loaded: Loaded) -> ModelOutput:
    """Return the kind of output that the manifest records; logits if it records none."""
    try:
        return ModelOutput(loaded.manifest.get("output_type", "logits"))
    except ValueError as error:
        raise BadInputError(f"The manifest of {loaded.path}: {error}.", "Build the engine again.") from error
