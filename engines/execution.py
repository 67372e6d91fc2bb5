"""Execution of batches on a CUDA stream: contexts, buffers and CUDA graphs, kept from one batch to the next."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hemf_export.engines.backends import lacks_memory
from hemf_export.engines.device import CaptureError, Device
from hemf_export.engines.tensors import Interface
from hemf_export.files import gpu_memory
from hemf_export.files.errors import HemfError

if TYPE_CHECKING:
    from tensorrt_bindings import IExecutionContext

KEPT_SIZES = 8  # batch sizes whose buffers and graph are kept; the least recently used makes room
_LESS_MEMORY = "The GPU's memory may be full: fewer contexts at once, or smaller batches."


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

    Only one thread may use it at a time. What is enqueued when it is dropped is waited for: contexts and graphs must
    not be destroyed before.

    Args:
        new_context: creates an `IExecutionContext`; called once per profile.
        interface: the engine's.
        device: the GPU to run on.
        cuda_graphs: capture each batch size once and launch it as one graph. A size that can't be captured is run
            without one.
        reason: TensorRT's last messages, for an error.
        note: receives what a user should know.
    """

    def __init__(
        self,
        new_context: Callable[[], IExecutionContext | None],
        interface: Interface,
        device: Device,
        *,
        cuda_graphs: bool,
        reason: Callable[[], str],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._new_context, self._interface, self._device = new_context, interface, device
        self._cuda_graphs, self._reason, self._note = cuda_graphs, reason, note
        self._stream = device.stream()
        # A context keeps its profile: graphs that were captured with it stay valid.
        self._contexts: dict[int, IExecutionContext] = {}
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        weakref.finalize(self, _finish, device, self._stream).atexit = False

    def run(self, batch: Tensor) -> Tensor:
        """A batch that fits a profile → outputs, on the batch's device, in memory of their own.

        A batch on the GPU is ordered after the work of the caller's current stream, and the outputs before the work
        that it gets later; the host waits for neither. A batch elsewhere is waited for.
        """
        with torch.no_grad():
            slot = self._slot(len(batch))
            on_gpu = batch.device == slot.input.device and batch.device.type != "cpu"
            return self._run_on_gpu(slot, batch) if on_gpu else self._run_from_host(slot, batch)

    def prepare(self, sizes: Iterable[int]) -> None:
        """Allocate, run and capture batch sizes that each fit a profile, so that `run` finds them ready."""
        for size in sizes:
            self._slot(size)

    def _run_on_gpu(self, slot: _Slot, batch: Tensor) -> Tensor:
        device, stream, caller = self._device, self._stream, self._device.current()
        device.order(caller, stream)
        with device.on(stream):
            slot.input.copy_(batch, non_blocking=True)
            device.record(batch, stream)
            slot.launch()
            outputs = slot.output.clone()
        device.order(stream, caller)
        device.record(outputs, caller)  # the caller reads them there
        return outputs

    def _run_from_host(self, slot: _Slot, batch: Tensor) -> Tensor:
        slot.host_input.copy_(batch)
        with self._device.on(self._stream):
            slot.input.copy_(slot.host_input, non_blocking=True)
            slot.launch()
            slot.host_output.copy_(slot.output, non_blocking=True)
        self._device.wait(self._stream)
        return slot.host_output.clone().to(batch.device)

    def _slot(self, count: int) -> _Slot:
        if count in self._slots:
            self._slots.move_to_end(count)
            return self._slots[count]
        if len(self._slots) >= KEPT_SIZES:
            self._device.wait(self._stream)
            self._slots.popitem(last=False)
        slot = self._new_slot(count)
        index = self._interface.profile(count)
        assert index is not None, "batches are cut to fit"
        slot.launch = self._launcher(self._context(index), slot)
        self._slots[count] = slot
        return slot

    def _new_slot(self, count: int) -> _Slot:
        device, into, out = self._device, self._interface.input, self._interface.output
        shapes = (count, *into.shape), (count, *out.shape)
        # On the stream that uses them: PyTorch hands what is freed to that stream alone. And not as inference tensors,
        # which couldn't be written to outside of `torch.inference_mode`.
        with (
            gpu_memory.needed(f"a batch of {count} images", _LESS_MEMORY),
            device.on(self._stream),
            torch.inference_mode(mode=False),
        ):
            slot = _Slot(
                device.empty(shapes[0], into.dtype), device.empty(shapes[1], out.dtype),
                device.pinned(shapes[0], into.dtype), device.pinned(shapes[1], out.dtype), lambda: None,
            )  # fmt: skip
            slot.input.zero_()
        return slot

    def _context(self, profile: int) -> IExecutionContext:
        if profile not in self._contexts:
            context = self._new_context()
            if context is None:
                raise HemfError(f"TensorRT gives no execution context: {self._reason()}", _LESS_MEMORY)
            if profile and not context.set_optimization_profile_async(profile, self._device.handle(self._stream)):
                raise _refusal(f"TensorRT refuses optimization profile {profile}", self._reason())
            self._contexts[profile] = context
        return self._contexts[profile]

    def _launcher(self, context: IExecutionContext, slot: _Slot) -> Callable[[], None]:
        into, out = self._interface.input.name, self._interface.output.name
        stream, reason, size = self._stream, self._reason, len(slot.input)
        handle = self._device.handle(stream)
        # Not `slot` or `self`, which hold what is returned here: in a cycle they would outlive their last use.
        shape, source, target = tuple(slot.input.shape), slot.input.data_ptr(), slot.output.data_ptr()

        def bind() -> None:
            accepted = (
                context.set_input_shape(into, shape)
                and context.set_tensor_address(into, source)
                and context.set_tensor_address(out, target)
            )
            if not accepted:
                raise _refusal(f"TensorRT refuses a batch of {size}", reason())

        def enqueue(on: int) -> None:
            if not context.execute_async_v3(on):
                raise _refusal(f"TensorRT can't run a batch of {size}", reason())

        def run() -> None:
            bind()
            enqueue(handle)

        bind()
        self._device.wait(stream)  # for the buffers and the context's profile, to use them on another stream
        if self._cuda_graphs:
            try:
                launch = self._device.capture(enqueue)
            except CaptureError as error:
                self._note(f"A batch of {size} is run without a CUDA graph, as it can't be captured: {error}")
            else:
                return lambda: launch(stream)
        # The first run of a batch size allocates, and shows whether it runs at all.
        run()
        self._device.wait(stream)
        return run


def _refusal(what: str, reason: str) -> HemfError:
    return HemfError(f"{what}: {reason}", _LESS_MEMORY if lacks_memory(reason) else None)


def _finish(device: Device, stream: Any) -> None:
    with suppress(Exception):  # after an error on the GPU
        device.wait(stream)
