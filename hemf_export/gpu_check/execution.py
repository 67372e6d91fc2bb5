"""Step of the GPU check: how engines are run, with kernels of PyTorch in place of a TensorRT engine.

Streams, buffers, captured graphs and memory are CUDA's own. Only the engine is a stand-in, which reads and writes the
addresses that it is given, on the stream that it is given, as TensorRT does: what fails here fails with any engine.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
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
_WORK = 40  # kernels of a run: long enough for another stream to overtake it

_Mode = Enum("_Mode", "INPUT OUTPUT")
_Type = Enum("_Type", "FLOAT")


def execution(place: Place, findings: Findings) -> None:
    """Run batches of many sizes, from several threads and streams, with and without captured graphs."""
    runs = {}
    for graphs in (False, True):
        name = f"sizes {', '.join(map(str, _SIZES))} {'with' if graphs else 'without'} captured graphs"
        with findings.attempt(name):
            with _runner(place, _Engine(place), cuda_graphs=graphs) as runner:
                runs[graphs] = [runner.infer(_images(place, count, count)) for count in _SIZES]
                notes = "; ".join(runner.notes)
            wrong = _wrong(place, _SIZES, runs[graphs])
            findings.check(name, wrong == 0 and not notes, _found(wrong, len(_SIZES), notes))
    if len(runs) == 2:
        equal = all(torch.equal(one, other) for one, other in zip(*runs.values(), strict=True))
        findings.check("graphs equal to the bit", equal, "equal" if equal else "logits differ")
    with findings.attempt("more sizes than are kept"):
        with _runner(place, _Engine(place, _MORE_SIZES[-1])) as runner:
            found = [runner.infer(_images(place, count, count)) for count in _MORE_SIZES]
        wrong = _wrong(place, _MORE_SIZES, found)
        findings.check("more sizes than are kept", wrong == 0, _found(wrong, len(_MORE_SIZES)))
    with findings.attempt("four threads on four streams"):
        with _runner(place, _Engine(place), contexts=2) as runner, ThreadPoolExecutor(_THREADS) as pool:
            wrong = sum(pool.map(lambda number: _thread(place, runner, number), range(_THREADS)))
        findings.check("four threads on four streams", wrong == 0, _found(wrong, _THREADS * _BATCHES))
    with findings.attempt("a capture that fails"):
        _failing_capture(place, findings)


def _failing_capture(place: Place, findings: Findings) -> None:
    """Run an engine that does what no capture allows: it must go on without a graph, and say so."""
    before = torch.cuda.current_stream() if place.device == "cuda" else None
    with _runner(place, _Engine(place, waits=True)) as runner:
        found = [runner.infer(_images(place, count, count)) for count in _SIZES]
        notes = "; ".join(runner.notes)
    wrong = _wrong(place, _SIZES, found)
    kept = before is None or torch.cuda.current_stream() == before
    findings.check(
        "a capture that fails", wrong == 0 and kept and bool(notes),
        _found(wrong, len(_SIZES), notes or "nothing was said") + ("" if kept else "; the current stream was changed"),
    )  # fmt: skip


def _thread(place: Place, runner: EngineRunner, number: int) -> int:
    """Run batches on a stream of this thread's own, and overwrite freed memory meanwhile; count wrong results."""
    with _own_stream(place):
        wrong = 0
        for step in range(_BATCHES):
            count = 1 + (number + step) % _LARGEST
            images = _images(place, count, 100 * number + step)
            logits = runner.infer(images)
            torch.full_like(logits, float("nan"))  # takes memory that was freed too early
            wrong += not torch.equal(logits, compute(images))
        return wrong


def compute(images: Tensor) -> Tensor:
    """Compute the logits (N, classes) of the stand-in, with many short kernels."""
    work = images
    for _ in range(_WORK):
        work = torch.sin(work) + 0.5
    return work.flatten(2).sum(2)


class _Engine:
    """Stand-in of an `ICudaEngine` with one profile.

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
    """Stand-in of an `IExecutionContext`."""

    def __init__(self, engine: _Engine) -> None:
        self._engine, self._count, self._tensors = engine, 0, dict[str, Tensor]()

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._count = shape[0]
        return 1 <= shape[0] <= self._engine.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        shape = _SHAPE if name == "images" else (_CLASSES,)
        self._tensors[name] = at_address(self._engine.place, address, (self._count, *shape))
        return True

    def execute_async_v3(self, stream: int) -> bool:
        with _stream_of(self._engine.place, stream):
            if self._engine.waits:
                wait(self._engine.place)
            self._tensors["logits"].copy_(compute(self._tensors["images"]))
        return True


def wait(place: Place) -> None:
    """Wait for the whole GPU."""
    if place.device == "cuda":
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


def _runner(place: Place, engine: _Engine, **options: Any) -> EngineRunner:
    loaded = Loaded(Path("stand-in.engine"), cast(Backend, _StandIn()), cast(Any, engine), {})
    return EngineRunner(loaded, _device(place), "stand-in", **options)


class _StandIn:
    name, version = "stand-in", "0"


def _device(place: Place) -> Device:
    make: Callable[[], Device] = device.CudaDevice
    return make()


def _images(place: Place, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *_SHAPE, generator=generator).to(place.device)


def _wrong(place: Place, sizes: tuple[int, ...], found: list[Tensor]) -> int:
    pairs = zip(sizes, found, strict=True)
    return sum(not torch.equal(logits, compute(_images(place, count, count))) for count, logits in pairs)


def _found(wrong: int, runs: int, notes: str = "") -> str:
    return f"{runs - wrong} of {runs} batches right" + (f"; {notes}" if notes else "")


def _own_stream(place: Place) -> AbstractContextManager[Any]:
    return torch.cuda.stream(device.CudaDevice().stream()) if place.device == "cuda" else nullcontext()


def _stream_of(place: Place, handle: int) -> AbstractContextManager[Any]:
    if place.device != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(handle))  # type: ignore[no-untyped-call]
