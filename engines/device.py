"""What running an engine needs of CUDA, through PyTorch: streams, buffers, captured graphs.

The runner asks for no more than this, so that it can be tested with a device that is none.
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
        """A new stream."""
        ...

    def handle(self, stream: Any) -> int:
        """Its `cudaStream_t`."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What is asked of PyTorch in the block goes to that stream."""
        ...

    def follow(self, stream: Any, other: Any | None = None) -> None:
        """`stream` waits for what `other`, the caller's own stream by default, was given so far."""
        ...

    def lead(self, stream: Any) -> None:
        """The caller's own stream waits for what `stream` was given so far."""
        ...

    def wait(self, stream: Any) -> None:
        """The host waits for a stream."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU copies from and to by itself."""
        ...

    def capture(self, stream: Any, run: Callable[[], None]) -> Callable[[], None]:
        """Capture what `run` gives to `stream` in a CUDA graph; the function that launches it there."""
        ...


_CAPTURING = threading.Lock()  # PyTorch waits for the whole GPU before a capture, which another would not survive


class CudaDevice:
    """A GPU.

    Args:
        index: of the GPU, as CUDA numbers those that it may see.
    """

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)

    def stream(self) -> torch.cuda.Stream:
        """A new stream, apart from PyTorch's default one."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def handle(self, stream: torch.cuda.Stream) -> int:
        """Its `cudaStream_t`."""
        return int(stream.cuda_stream)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """What is asked of PyTorch in the block goes to that stream."""
        return torch.cuda.stream(stream)

    def follow(self, stream: torch.cuda.Stream, other: torch.cuda.Stream | None = None) -> None:
        """`stream` waits for what `other`, the caller's own stream by default, was given so far."""
        stream.wait_stream(other or torch.cuda.current_stream(self.device))

    def lead(self, stream: torch.cuda.Stream) -> None:
        """The caller's own stream waits for what `stream` was given so far."""
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def wait(self, stream: torch.cuda.Stream) -> None:
        """The host waits for a stream."""
        stream.synchronize()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU copies from and to by itself."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def capture(self, stream: torch.cuda.Stream, run: Callable[[], None]) -> Callable[[], None]:
        """Capture what `run` gives to `stream` in a CUDA graph; the function that launches it there."""
        graph = torch.cuda.CUDAGraph()
        # Other threads go on running meanwhile: only this thread's own calls are held to what a capture allows.
        with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()

        def launch() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return launch
