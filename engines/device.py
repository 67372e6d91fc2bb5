"""The CUDA operations that running an engine takes: streams and buffers through PyTorch, graphs through the driver.

The runner uses no more of CUDA than this interface, so that tests can run engines without a GPU.

Graphs aren't captured by `torch.cuda.graph`. That synchronizes the whole GPU and empties PyTorch's cache first, which
stalls every other thread. And where a capture fails, its `__exit__` raises before it puts the thread's current stream
back, and PyTorch's allocator stays in its state of capturing for good (torch/cuda/graphs.py and CUDAGraph.cpp,
2.10 to 2.13). A launch of an engine allocates nothing through PyTorch, so that the driver's own capture is enough.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from hemf_export.engines import machine
from hemf_export.files.errors import HemfError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: apart from the legacy default stream, which a capture must not meet
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is not restricted


class CaptureError(Exception):
    """Work couldn't be captured in a CUDA graph; the message is the reason."""


class Device(Protocol):
    """Streams and memory of one GPU."""

    def stream(self) -> Any:
        """Create a stream."""
        ...

    def current(self) -> Any:
        """The calling thread's current stream."""
        ...

    def handle(self, stream: Any) -> int:
        """The stream's `cudaStream_t`."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make PyTorch enqueue the work of the block, and allocate its tensors, on that stream."""
        ...

    def order(self, first: Any, then: Any) -> None:
        """Make the stream `then` wait for the work enqueued so far on the stream `first`."""
        ...

    def wait(self, stream: Any) -> None:
        """Block the host until the work on `stream` is done."""
        ...

    def record(self, tensor: Tensor, stream: Any) -> None:
        """Keep the memory of a tensor, once it is freed, until the work enqueued by then on `stream` is done.

        PyTorch hands freed memory at once to the next tensor of the stream that it was allocated on; it knows of no
        other stream that uses it (`torch.Tensor.record_stream`).
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate memory of the GPU."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate pinned host memory, which the GPU copies from and to asynchronously."""
        ...

    def capture(self, enqueue: Callable[[int], None]) -> Callable[[Any], None]:
        """Run work once and wait for it, then capture it in a CUDA graph, both on a stream that nothing else uses.

        The first run may allocate, which a capture must not.

        Args:
            enqueue: enqueues the work on the `cudaStream_t` that it is given.

        Returns:
            The function that launches the graph on a stream.

        Raises:
            CaptureError: the work can't be captured. The thread can go on as before.
        """
        ...


class CudaDevice:
    """A GPU.

    Args:
        index: CUDA's number of it among the visible GPUs.
    """

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)

    def stream(self) -> torch.cuda.Stream:
        """Create a stream other than PyTorch's default one."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def current(self) -> torch.cuda.Stream:
        """The calling thread's current stream on this GPU."""
        return torch.cuda.current_stream(self.device)

    def handle(self, stream: torch.cuda.Stream) -> int:
        """The stream's `cudaStream_t`."""
        return int(stream.cuda_stream)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """Make PyTorch enqueue the work of the block, and allocate its tensors, on that stream."""
        return torch.cuda.stream(stream)

    def order(self, first: torch.cuda.Stream, then: torch.cuda.Stream) -> None:
        """Make the stream `then` wait for the work enqueued so far on the stream `first`."""
        then.wait_stream(first)

    def wait(self, stream: torch.cuda.Stream) -> None:
        """Block the host until the work on `stream` is done."""
        stream.synchronize()

    def record(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """Keep the memory of a tensor, once it is freed, until the work enqueued by then on `stream` is done."""
        tensor.record_stream(stream)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate memory of the GPU."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate pinned host memory, which the GPU copies from and to asynchronously."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def capture(self, enqueue: Callable[[int], None]) -> Callable[[torch.cuda.Stream], None]:
        """Run work once, then capture it in a CUDA graph, both on a stream that nothing else uses.

        Not on one of PyTorch's, which it hands out several times.
        """
        with torch.cuda.device(self.device):  # makes the GPU's context current
            graph = Graph(_driver(), enqueue)
        return lambda stream: graph.launch(int(stream.cuda_stream))


class Graph:
    """A captured graph, by the CUDA driver's API.

    Args:
        driver: the driver's library.
        enqueue: enqueues the work on the stream whose handle it is given; called twice.

    Raises:
        CaptureError: the work can't be captured, or raises `HemfError`. What the capture took is freed
            whatever the work raises.
    """

    def __init__(self, driver: Any, enqueue: Callable[[int], None]) -> None:
        self._driver = driver
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        try:
            self._rehearse(stream, enqueue)
            self._capture(stream, graph, enqueue)
            self._ready = ctypes.c_void_p()
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._ready), graph, ctypes.c_ulonglong(0))
            weakref.finalize(self, driver.cuGraphExecDestroy, self._ready).atexit = False
        finally:
            if graph.value:
                driver.cuGraphDestroy(graph)
            driver.cuStreamDestroy_v2(stream)

    def launch(self, stream: int) -> None:
        """Enqueue the graph's work on a stream.

        Raises:
            HemfError: CUDA can't, as after an earlier error on the GPU.
        """
        try:
            self._call("cuGraphLaunch", self._ready, ctypes.c_void_p(stream))
        except CaptureError as error:
            raise HemfError(f"A CUDA graph can't be launched: {error}.") from error

    def _rehearse(self, stream: ctypes.c_void_p, enqueue: Callable[[int], None]) -> None:
        try:
            enqueue(int(stream.value or 0))
        except HemfError as error:
            raise CaptureError(str(error)) from error
        self._call("cuStreamSynchronize", stream)

    def _capture(self, stream: ctypes.c_void_p, graph: ctypes.c_void_p, enqueue: Callable[[int], None]) -> None:
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            enqueue(int(stream.value or 0))
        except BaseException as error:
            # The capture has to end all the same; that it is broken is known.
            self._driver.cuStreamEndCapture(stream, ctypes.byref(graph))
            if isinstance(error, HemfError):
                raise CaptureError(str(error)) from error
            raise
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))

    def _call(self, name: str, *arguments: Any) -> None:
        failed = getattr(self._driver, name)(*arguments)
        if failed:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(failed, ctypes.byref(text))
            raise CaptureError(f"{name}: {(text.value or b'CUDA error %d' % failed).decode()}")


def _driver() -> Any:
    with suppress(OSError):
        return machine.cuda_library()
    raise CaptureError("the CUDA driver's library isn't found")
