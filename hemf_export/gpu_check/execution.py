"""Step of the GPU check: how engines are run, with kernels of PyTorch in place of a TensorRT engine.

Streams, buffers, captured graphs and memory are CUDA's own. Only the engine is a stand-in, which reads and writes the
addresses that it is given, on the stream that it is given, as TensorRT does: what fails here fails with any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hemf_export.engines import device
from hemf_export.engines.backends import Backend
from hemf_export.engines.device import Device
from hemf_export.engines.runner import EngineRunner
from hemf_export.engines.runtime import Loaded
from hemf_export.gpu_check.step import Findings, Place

_SHAPE, _CLASSES, _LARGEST = (3, 8, 8), 3, 8
_SIZES = (1, 8, 3, 8, 1)
_MORE_SIZES = (*range(1, 13), *range(1, 13))  # more than the runner keeps buffers of
_THREADS, _BATCHES = 4, 40  # of each thread
_WORK = 20  # pairs of kernels in a run: long enough for another stream to overtake it

_Mode = Enum("_Mode", "INPUT OUTPUT")
_Type = Enum("_Type", "FLOAT")


def execution(place: Place, findings: Findings) -> None:
    """Run batches of many sizes, from several threads and streams, with and without captured graphs."""
    make: Callable[[], Device] = device.CudaDevice
    gpu = make()
    runs: dict[bool, list[Tensor]] = {}
    for graphs in (False, True):
        name = f"sizes {', '.join(map(str, _SIZES))} {'with' if graphs else 'without'} captured graphs"
        with findings.attempt(name):
            with _runner(gpu, _Engine(place), cuda_graphs=graphs) as runner:
                runs[graphs] = _logits(gpu, runner, _SIZES)
                notes = "; ".join(runner.notes)
            _judge(findings, name, _SIZES, runs[graphs], notes, fine=not notes)
    if len(runs) == 2:
        equal = all(torch.equal(one, other) for one, other in zip(*runs.values(), strict=True))
        findings.check("graphs equal to the bit", equal, "equal" if equal else "logits differ")
    with findings.attempt("more sizes than are kept"):
        with _runner(gpu, _Engine(place, _MORE_SIZES[-1])) as runner:
            found = _logits(gpu, runner, _MORE_SIZES)
        _judge(findings, "more sizes than are kept", _MORE_SIZES, found)
    with findings.attempt("four threads on four streams"):
        with _runner(gpu, _Engine(place), contexts=2) as runner, ThreadPoolExecutor(_THREADS) as pool:
            wrong = sum(pool.map(lambda number: _thread(gpu, runner, number), range(_THREADS)))
        found_right = f"{_THREADS * _BATCHES - wrong} of {_THREADS * _BATCHES} batches right"
        findings.check("four threads on four streams", wrong == 0, found_right)
    with findings.attempt("a capture that fails"):
        before = gpu.current()
        with _runner(gpu, _Engine(place, waits=True)) as runner:
            found = _logits(gpu, runner, _SIZES)
            notes = "; ".join(runner.notes)
        kept = gpu.current() == before
        said = (notes or "nothing was said") + ("" if kept else "; the current stream was changed")
        _judge(findings, "a capture that fails", _SIZES, found, said, fine=kept and bool(notes))


def compute(images: Tensor, work: Tensor) -> None:
    """Compute the stand-in's values: many short kernels, which allocate nothing and round alike anywhere."""
    work.copy_(images)
    for _ in range(_WORK):
        work.neg_().add_(1.0)


class _Engine:
    """Stand-in of an `ICudaEngine` with one profile. The logits are a pixel of each channel.

    Args:
        place: where it runs.
        largest: largest batch.
        waits: wait for the GPU in each run, which a capture doesn't allow.
    """

    num_io_tensors, num_optimization_profiles = 2, 1

    def __init__(self, place: Place, largest: int = _LARGEST, *, waits: bool = False) -> None:
        self.place, self.largest, self.waits = place, largest, waits

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name == "images" else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> _Type:
        return _Type.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *_SHAPE) if name == "images" else (-1, _CLASSES)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(count, *_SHAPE) for count in (1, self.largest, self.largest)]

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    """Stand-in of an `IExecutionContext`, with scratch memory of its own, as TensorRT's have."""

    def __init__(self, engine: _Engine) -> None:
        self._engine, self._count, self._addresses = engine, 0, dict[str, int]()
        self._scratch = torch.empty((engine.largest, *_SHAPE), device=engine.place.device)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._count = shape[0]
        return 1 <= shape[0] <= self._engine.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        place, work = self._engine.place, self._scratch[: self._count]
        images = at_address(place, self._addresses["images"], (self._count, *_SHAPE))
        logits = at_address(place, self._addresses["logits"], (self._count, _CLASSES))

        def run() -> None:
            compute(images, work)
            logits.copy_(work[:, :, 0, 0])

        if self._engine.waits:
            try:
                forbidden_in_captures()
            except RuntimeError:  # CUDA refuses: TensorRT returns false then
                return False
        launch(stream, run, self._count, self._addresses)
        return True


def launch(stream: int, run: Callable[[], None], count: int, addresses: dict[str, int]) -> None:
    """Enqueue the kernels of `run` on a stream, a `cudaStream_t`."""
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]
        run()


def forbidden_in_captures() -> None:
    """Wait for the whole GPU."""
    torch.cuda.synchronize()


def at_address(place: Place, address: int, shape: tuple[int, ...]) -> Tensor:
    """Make a float32 tensor of memory that somebody else owns."""
    memory = SimpleNamespace()
    values = {"shape": shape, "typestr": "<f4", "data": (address, False), "version": 3}
    if place.device == "cuda":
        memory.__cuda_array_interface__ = values
        return torch.as_tensor(memory, device=place.device)
    memory.__array_interface__ = values
    return torch.from_numpy(np.asarray(memory))


def _runner(gpu: Device, engine: _Engine, **options: Any) -> EngineRunner:
    backend = cast(Backend, SimpleNamespace(name="stand-in", version="0"))
    return EngineRunner(Loaded(Path("stand-in.engine"), backend, cast(Any, engine), {}), gpu, "stand-in", **options)


def _logits(gpu: Device, runner: EngineRunner, sizes: Sequence[int]) -> list[Tensor]:
    return [runner.infer(_on_gpu(gpu, _images(count, count))).cpu() for count in sizes]


def _thread(gpu: Device, runner: EngineRunner, number: int) -> int:
    """Run batches on a stream of this thread's own, and use freed memory again meanwhile; count wrong results."""
    found, batches = [], [_images(1 + (number + step) % _LARGEST, 100 * number + step) for step in range(_BATCHES)]
    with gpu.on(gpu.stream()):
        for batch in batches:
            logits = runner.infer(_on_gpu(gpu, batch))
            gpu.empty(tuple(batch.shape), batch.dtype).fill_(float("nan"))  # where the batch was
            copy = logits.clone()
            del logits
            gpu.empty(tuple(copy.shape), copy.dtype).fill_(float("nan"))  # where the logits were
            found.append(copy)
        return sum(not _right(copy.cpu(), batch) for copy, batch in zip(found, batches, strict=True))


def _images(count: int, seed: int) -> Tensor:
    return torch.rand(count, *_SHAPE, generator=torch.Generator().manual_seed(seed))


def _on_gpu(gpu: Device, images: Tensor) -> Tensor:
    batch = gpu.empty(tuple(images.shape), images.dtype)
    return batch.copy_(images)


def _judge(
    findings: Findings, name: str, sizes: Sequence[int], found: Sequence[Tensor], notes: str = "", *, fine: bool = True
) -> None:
    right = sum(_right(logits, _images(count, count)) for count, logits in zip(sizes, found, strict=True))
    said = f"{right} of {len(sizes)} batches right" + (f"; {notes}" if notes else "")
    findings.check(name, fine and right == len(sizes), said)


def _right(logits: Tensor, images: Tensor) -> bool:
    """Compare logits with those computed on the CPU."""
    work = torch.empty_like(images)
    compute(images, work)
    return torch.equal(logits, work[:, :, 0, 0])
