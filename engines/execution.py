"""One execution context of an engine with its stream, its buffers and its CUDA graphs. Of one thread at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from hemf_export.engines.device import Device
from hemf_export.engines.tensors import Interface
from hemf_export.files.errors import HemfError

if TYPE_CHECKING:
    from tensorrt_bindings import IExecutionContext

_KEPT_SIZES = 8  # batch sizes whose buffers and graph are kept; the one unused longest makes room


@dataclass
class _Slot:
    """Buffers of one batch size, and what runs the engine on them."""

    input: Tensor
    output: Tensor
    host_input: Tensor
    host_output: Tensor
    launch: Callable[[], None]


class Execution:
    """Runs batches, one after the other.

    Args:
        new_context: makes an `IExecutionContext`; called once a profile.
        interface: of the engine.
        device: that it runs on.
        cuda_graphs: capture each batch size once and launch it as one.
        reason: what TensorRT said last, for a failure.
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
        # A context keeps to its profile: what was captured with it stays valid.
        self._contexts: dict[int, IExecutionContext] = {}
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def run(self, batch: Tensor) -> Tensor:
        """A batch that fits a profile → logits: where the batch is, in memory of their own."""
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
            taken = (
                context.set_input_shape(into, tuple(slot.input.shape))
                and context.set_tensor_address(into, slot.input.data_ptr())
                and context.set_tensor_address(out, slot.output.data_ptr())
            )
            if not taken:
                raise HemfError(f"TensorRT refuses a batch of {len(slot.input)}: {self._reason()}")

        def enqueue() -> None:
            if not context.execute_async_v3(handle):
                raise HemfError(f"TensorRT can't run a batch of {len(slot.input)}: {self._reason()}")

        def run() -> None:
            bind()
            enqueue()

        # The first run of a size prepares what a capture must not: it is never captured itself.
        run()
        self._device.wait(self._stream)
        return self._device.capture(self._stream, enqueue) if self._cuda_graphs else run
