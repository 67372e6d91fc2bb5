"""The CUDA operations that running an engine takes, through PyTorch: streams, buffers, captured graphs.

The runner uses no more of CUDA than this interface, so that tests can run engines without a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class Device(Protocol):
    """Streams and memory of one GPU."""

    def stream(self) -> Any:
        """Create a stream."""
        ...

    def handle(self, stream: Any) -> int:
        """The stream's `cudaStream_t`."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make PyTorch enqueue the work of the block on that stream."""
        ...

    def follow(self, stream: Any, other: Any | None = None) -> None:
        """Make `stream` wait for the work enqueued so far on `other`, by default the caller's current stream."""
        ...

    def lead(self, stream: Any) -> None:
        """Make the caller's current stream wait for the work enqueued so far on `stream`."""
        ...

    def wait(self, stream: Any) -> None:
        """Block the host until the work on `stream` is done."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate memory of the GPU."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate pinned host memory, which the GPU copies from and to asynchronously."""
        ...

    def capture(self, stream: Any, run: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `run` enqueues on `stream` in a CUDA graph; return the function that launches it."""
        ...


_CAPTURING = threading.Lock()  # PyTorch synchronizes the whole GPU before a capture, which would break another one


class CudaDevice:
    """A GPU, through PyTorch.

    Args:
        index: CUDA's number of it among the visible GPUs.
    """

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)

    def stream(self) -> torch.cuda.Stream:
        """Create a stream other than PyTorch's default one."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def handle(self, stream: torch.cuda.Stream) -> int:
        """The stream's `cudaStream_t`."""
        return int(stream.cuda_stream)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """Make PyTorch enqueue the work of the block on that stream."""
        return torch.cuda.stream(stream)

    def follow(self, stream: torch.cuda.Stream, other: torch.cuda.Stream | None = None) -> None:
        """Make `stream` wait for the work enqueued so far on `other`, by default the caller's current stream."""
        stream.wait_stream(other or torch.cuda.current_stream(self.device))

    def lead(self, stream: torch.cuda.Stream) -> None:
        """Make the caller's current stream wait for the work enqueued so far on `stream`."""
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def wait(self, stream: torch.cuda.Stream) -> None:
        """Block the host until the work on `stream` is done."""
        stream.synchronize()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate memory of the GPU."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate pinned host memory, which the GPU copies from and to asynchronously."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def capture(self, stream: torch.cuda.Stream, run: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `run` enqueues on `stream` in a CUDA graph; return the function that launches it."""
        graph = torch.cuda.CUDAGraph()
        # Other threads go on running meanwhile: only this thread's calls are restricted to what a capture allows.
        with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()

        def launch() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return launch
