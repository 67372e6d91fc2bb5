"""A stand-in for a GPU that holds its user to CUDA's rules of order and lifetime, and to PyTorch's of memory.

It follows the CUDA C++ Programming Guide ("Streams", "Creating a Graph Using Stream Capture") and PyTorch's
documentation ("CUDA semantics", `torch.Tensor.record_stream`):

- Work is enqueued on a stream and runs later, in that stream's order. Streams are ordered among each other by
  `order` (an event that the other one waits for) and by the host's waiting alone. Here it runs when the host waits, in
  an order that a seed draws from all those that are allowed.
- Two accesses to the same memory, one of which writes, have to be ordered. Whether they are is known when the later one
  is enqueued, whatever the order drawn: each piece of work carries the numbers of the work before it (a vector clock).
- Memory belongs to the stream that it was allocated on. When its last tensor is gone it goes at once to that stream's
  next allocation of its size; for streams that were recorded, after the work enqueued on them by then.
- An address that was freed must not be used.
- While a thread captures, it must neither allocate, nor wait, nor use PyTorch. A graph runs on the stream that it is
  launched on, with the addresses that were captured.

What is broken stands in `fake_records.records.misuse`, which ends the test (`fake_tensorrt.installed`).
"""

from __future__ import annotations

import itertools
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from hemf_export.engines.device import CaptureError
from hemf_export.files.errors import HemfError
from tests.engines.fake_records import records, streams

_aten = torch.ops.aten
_handles = itertools.count(0x1000)
_threads = threading.local()  # gpu → current stream, capture


@dataclass(frozen=True)
class Access:
    """A use of memory: which work it is part of, and what for."""

    stream: Stream
    number: int
    writes: bool
    what: str


@dataclass(eq=False)
class Block:
    """A piece of memory, freed and used again as a whole."""

    bytes: torch.Tensor
    stream: Stream | None  # that allocates it; None for pinned memory
    free: bool = False
    recorded: set[Stream] = field(default_factory=set)
    accesses: list[Access] = field(default_factory=list)

    def holds(self, address: int) -> bool:
        return self.bytes.data_ptr() <= address < self.bytes.data_ptr() + self.bytes.numel()


class Allocation:
    """Owner of a block, shared by its tensors; when it is gone, the block is free."""


class Stream:
    """Work in order: a function to run, or another stream's number to wait for."""

    def __init__(self, gpu: CpuDevice, name: str) -> None:
        self.gpu, self.name, self.handle = gpu, name, next(_handles)
        self.work: deque[tuple[int, Callable[[], None] | tuple[Stream, int]]] = deque()
        self.clock: dict[Stream, int] = {self: 0}
        self.done = 0
        streams[self.handle] = self

    def __repr__(self) -> str:
        return self.name

    def launch(self, size: int, run: Callable[[], None], reads: Sequence[Any], writes: Sequence[Any]) -> None:
        """Enqueue an execution of TensorRT's; memory is given by address, scratch memory by its owner."""
        self.gpu.enqueue(self, run, reads, writes, "an engine")


class Tensor(torch.Tensor):
    """A tensor in the GPU's memory, or in pinned memory of the host."""

    allocation: Allocation
    block: Block
    values: torch.Tensor
    gpu: CpuDevice

    @staticmethod
    def __new__(cls, gpu: CpuDevice, block: Block, allocation: Allocation, values: torch.Tensor) -> Any:
        # On "meta" without a GPU in PyTorch's eyes; `device` says what the code is to see.
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype,
            device="meta" if block.stream else "cpu",
        )  # fmt: skip
        made.gpu, made.block, made.allocation, made.values = gpu, block, allocation, values
        return made

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0) if self.block.stream else torch.device("cpu")

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        assert self.block.stream is None, "can't convert cuda:0 device type tensor to numpy"
        return self.clone().numpy()

    def __repr__(self, **_: Any) -> str:
        return f"<{self.dtype} {tuple(self.shape)} in {self.block.stream or 'pinned memory'}>"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [one for one in tree_flatten((args, kwargs or {}))[0] if isinstance(one, Tensor)]
        return found[0].gpu.compute(func, args, dict(kwargs or {}))


class CpuDevice:
    """A GPU that is none, for `engines.device.Device`.

    Args:
        seed: draws the order that work runs in.

    Attributes:
        captured: batch sizes, in the order of their capture.
        replayed: how often a captured graph was launched.
        uncapturable: batch sizes whose capture fails.
        waits: how often the host waited for a stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self.captured: list[int] = []
        self.replayed = self.waits = 0
        self.uncapturable: set[int] = set()
        self._draw, self._lock = random.Random(seed), threading.RLock()
        self._streams: list[Stream] = []
        self._blocks: list[Block] = []
        self._free: list[tuple[Block, dict[Stream, int]]] = []
        self.default = self.stream("the default stream")

    # engines.device.Device

    def stream(self, name: str = "a stream") -> Stream:
        with self._lock:
            made = Stream(self, f"{name} ({len(self._streams)})")
            self._streams.append(made)
            return made

    def current(self) -> Stream:
        return _currents().get(self, self.default)

    def handle(self, stream: Stream) -> int:
        return stream.handle

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, _currents()[self] = self.current(), stream
        try:
            yield
        finally:
            _currents()[self] = before

    def order(self, first: Stream, then: Stream) -> None:
        with self._lock:
            self._not_while_capturing("orders streams")
            number = then.clock[then] + 1
            _join(then.clock, first.clock)
            then.clock[then] = number
            then.work.append((number, (first, first.clock[first])))

    def wait(self, stream: Stream) -> None:
        with self._lock:
            self._not_while_capturing("waits")
            self.waits += 1
            self._run_up_to(stream, stream.clock[stream])

    def record(self, tensor: torch.Tensor, stream: Stream) -> None:
        with self._lock:
            assert isinstance(tensor, Tensor)
            if stream is not tensor.block.stream:  # PyTorch ignores the stream that the memory belongs to
                tensor.block.recorded.add(stream)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with self._lock:
            return self._allocate(shape, dtype, self.current())

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with self._lock:
            return self._allocate(shape, dtype, None)

    def capture(self, enqueue: Callable[[int], None]) -> Callable[[Stream], None]:
        rehearsal = self.stream("a stream of a capture")
        try:
            enqueue(rehearsal.handle)
        except HemfError as error:
            raise CaptureError(str(error)) from error
        self.wait(rehearsal)
        capture = _Capture()
        streams[capture.handle] = capture
        _threads.capture = capture
        try:
            enqueue(capture.handle)
        except HemfError as error:
            raise CaptureError(str(error)) from error
        finally:
            _threads.capture = None
        sizes = [size for size, *_ in capture.work]
        if self.uncapturable & set(sizes):
            raise CaptureError("operation not permitted when stream is capturing")
        self.captured += sizes

        def launch(stream: Stream) -> None:
            self.replayed += 1
            for _, run, reads, writes in capture.work:
                self.enqueue(stream, run, reads, writes, "a graph")

        return launch

    # For tests

    @staticmethod
    def capturing() -> bool:
        """Whether the calling thread captures."""
        return getattr(_threads, "capture", None) is not None

    def tensor(self, values: Any) -> Tensor:
        """A tensor with these values, made on the current stream."""
        given = torch.as_tensor(values)
        made = self.empty(tuple(given.shape), given.dtype)
        made.copy_(given)
        return made

    def pending(self) -> int:
        """How much work hasn't run yet."""
        return sum(len(stream.work) for stream in self._streams)

    # How it works

    def enqueue(
        self, stream: Stream, run: Callable[[], None], reads: Sequence[Any], writes: Sequence[Any], what: str
    ) -> None:
        """Enqueue work that reads and writes memory: blocks, or what `_block` finds."""
        with self._lock:
            number = stream.clock[stream] = stream.clock[stream] + 1
            for places, writing in ((reads, False), (writes, True)):
                for place in places:
                    self._use(self._block(place, what), Access(stream, number, writing, what), stream.clock)
            stream.work.append((number, run))

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do an operation of PyTorch's: on the current stream, or at once where only the host's memory is used."""
        with self._lock:
            self._not_while_capturing(str(func))
            given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
            if func is _aten.copy_.default:
                return self._copy(
                    args[0], args[1], waits=not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
                )
            if func.is_view or func in (_aten.split.Tensor, _aten.split_with_sizes.default):
                first = given[0]
                found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
                return tree_map(lambda one: Tensor(self, first.block, first.allocation, one), found)
            if all(one.block.stream is None for one in given):
                for one in given:
                    self._touch(one, writes=False)
                return func(*tree_map(_values, args), **tree_map(_values, kwargs))
            if func is _aten._to_copy.default and torch.device(kwargs.get("device") or "cuda").type == "cpu":
                out = torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
                return self._copy(out, args[0], waits=True)
            kwargs.pop("device", None)
            written = [args[0]] if func._schema.name.endswith("_") else []
            return self._enqueue_operation(func, args, kwargs, given, written)

    def _enqueue_operation(
        self, func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor], written: list[Tensor]
    ) -> Any:
        stream = self.current()
        run_args, run_kwargs = tree_map(_values, args), tree_map(_values, kwargs)
        if written:
            out = written[0]
        else:
            meta = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
            out = self._allocate(tuple(meta.shape), meta.dtype, stream)
        target = out.values

        def run() -> None:
            found = func(*run_args, **run_kwargs)
            if found is not target:
                target.copy_(found)

        reads = [one.block for one in given if one is not out]
        self.enqueue(stream, run, reads, [out.block], str(func))
        return out

    def _copy(self, to: torch.Tensor, origin: torch.Tensor, *, waits: bool) -> torch.Tensor:
        on_gpu = [one for one in (to, origin) if isinstance(one, Tensor) and one.block.stream]
        target, source = _values(to), _values(origin)
        if not on_gpu:
            for one, writes in ((to, True), (origin, False)):
                if isinstance(one, Tensor):
                    self._touch(one, writes=writes)
            target.copy_(source)
            return to
        if not isinstance(origin, Tensor):
            source = source.clone()  # pageable memory is staged before the call returns
        stream = self.current()
        reads = [origin.block] if isinstance(origin, Tensor) else []
        writes = [to.block] if isinstance(to, Tensor) else []

        def run() -> None:
            target.copy_(source)

        self.enqueue(stream, run, reads, writes, "a copy")
        if waits or not isinstance(to, Tensor):
            self.wait(stream)
        return to

    def _touch(self, tensor: Tensor, *, writes: bool) -> None:
        """The host uses pinned memory: all that the GPU does with it has to be done."""
        self._check(tensor.block, Access(self.default, 0, writes, "the host"), {})

    def _use(self, block: Block, access: Access, clock: dict[Stream, int]) -> None:
        if block.free:
            records.misuse.append(f"{access.what} on {access.stream} uses memory that is free")
        self._check(block, access, clock)
        if access.writes:  # what was ordered before this is also before all that comes after it
            block.accesses = [one for one in block.accesses if not self._before(one, clock)]
        block.accesses.append(access)

    def _check(self, block: Block, access: Access, clock: dict[Stream, int]) -> None:
        for earlier in block.accesses:
            if (access.writes or earlier.writes) and not self._before(earlier, clock):
                records.misuse.append(
                    f"{access.what} on {access.stream} {'writes' if access.writes else 'reads'} memory that "
                    f"{earlier.what} on {earlier.stream} {'writes' if earlier.writes else 'reads'}, without an order"
                )

    @staticmethod
    def _before(access: Access, clock: dict[Stream, int]) -> bool:
        return access.number <= max(clock.get(access.stream, 0), access.stream.done)

    def _block(self, place: Any, what: str) -> Block:
        if isinstance(place, Block):
            return place
        if not isinstance(place, int):  # an execution context, for its scratch memory
            return vars(place).setdefault("_scratch", Block(torch.empty(0), None))
        for block in self._blocks:
            if block.holds(place):
                return block
        records.misuse.append(f"{what} uses {place:#x}, which is no memory of the GPU")
        return Block(torch.empty(0), None)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, stream: Stream | None) -> Tensor:
        self._not_while_capturing("allocates")
        count = max(1, torch.Size(shape).numel()) * dtype.itemsize
        block = self._reuse(count, stream)
        if block is None:
            block = Block(torch.full((count,), 0xA5, dtype=torch.uint8), stream)
            self._blocks.append(block)
        block.free, block.recorded = False, set()
        allocation = Allocation()
        weakref.finalize(allocation, self._release, block).atexit = False
        values = block.bytes.view(dtype)[: torch.Size(shape).numel()].view(shape)
        return Tensor(self, block, allocation, values)

    def _reuse(self, count: int, stream: Stream | None) -> Block | None:
        for place, (block, waits_for) in enumerate(self._free):
            ready = all(number <= other.done for other, number in waits_for.items())
            if block.stream is stream and block.bytes.numel() == count and ready:
                del self._free[place]
                return block
        return None

    def _release(self, block: Block) -> None:
        with self._lock:
            block.free = True
            if block.stream is None:
                # PyTorch's host allocator keeps pinned memory until the copies that used it are done.
                self._free.append((block, {one.stream: one.number for one in block.accesses}))
                return
            for access in block.accesses:
                safe = access.stream in (block.stream, *block.recorded) or self._before(access, block.stream.clock)
                if not safe:
                    records.misuse.append(
                        f"memory of {block.stream} is freed while {access.what} on {access.stream} may still use it"
                    )
            self._free.append((block, {one: one.clock[one] for one in block.recorded}))

    def _run_up_to(self, stream: Stream, number: int) -> None:
        while stream.done < number:
            able = [one for one in self._streams if one.work and self._may_run(one)]
            self._step(self._draw.choice(able))

    @staticmethod
    def _may_run(stream: Stream) -> bool:
        _, work = stream.work[0]
        return not isinstance(work, tuple) or work[0].done >= work[1]

    @staticmethod
    def _step(stream: Stream) -> None:
        number, work = stream.work.popleft()
        if not isinstance(work, tuple):
            work()
        stream.done = number

    @staticmethod
    def _not_while_capturing(what: str) -> None:
        if CpuDevice.capturing():
            records.misuse.append(f"{what} during a capture")


class _Capture:
    """A stream that is captured: it lists what it is given."""

    def __init__(self) -> None:
        self.handle = next(_handles)
        self.work: list[tuple[int, Callable[[], None], Sequence[Any], Sequence[Any]]] = []

    def launch(self, size: int, run: Callable[[], None], reads: Sequence[Any], writes: Sequence[Any]) -> None:
        self.work.append((size, run, reads, writes))


def _currents() -> dict[CpuDevice, Stream]:
    if not hasattr(_threads, "currents"):
        _threads.currents = {}
    return _threads.currents


def _join(clock: dict[Stream, int], other: dict[Stream, int]) -> None:
    for stream, number in other.items():
        clock[stream] = max(clock.get(stream, 0), number)


def _values(one: Any) -> Any:
    return one.values if isinstance(one, Tensor) else one


def _meta(one: Any) -> Any:
    return _values(one).to("meta") if isinstance(one, torch.Tensor) else one
