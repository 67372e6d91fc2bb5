"""The stand-in for a GPU itself: each rule of CUDA or PyTorch that is broken is told, and what keeps to them passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch

from tests.engines.fake_cuda import CpuDevice
from tests.engines.fake_records import give, records


@pytest.fixture(autouse=True)
def misuse() -> Iterator[list[str]]:
    records.clear()
    yield records.misuse
    records.clear()


@pytest.fixture(params=range(3))
def gpu(request: pytest.FixtureRequest) -> CpuDevice:
    return CpuDevice(request.param)


def test_work_is_done_when_it_is_waited_for_and_in_its_order(gpu, misuse):
    stream = gpu.stream()
    with gpu.on(stream):
        values = gpu.empty((3,), torch.float32)
        values.zero_()
        values.add_(1)
        doubled = values.clone().mul_(2)
    assert gpu.pending() == 4
    gpu.wait(stream)
    assert gpu.pending() == 0
    assert doubled.values.tolist() == [2, 2, 2]
    assert misuse == []


def test_streams_are_ordered_by_events(gpu, misuse):
    first, then = gpu.stream(), gpu.stream()
    with gpu.on(first):
        values = gpu.empty((2,), torch.float32)
        values.fill_(5)
    gpu.order(first, then)
    gpu.record(values, then)
    with gpu.on(then):
        copied = values.clone()
        assert copied.cpu().tolist() == [5, 5]
    assert misuse == []


def _reads_before_it_is_written(gpu: CpuDevice) -> None:
    first, then = gpu.stream(), gpu.stream()
    with gpu.on(first):
        values = gpu.empty((2,), torch.float32)
        values.zero_()
    with gpu.on(then):
        values.clone()


def _writes_what_is_read(gpu: CpuDevice) -> None:
    first, then = gpu.stream(), gpu.stream()
    with gpu.on(first):
        values = gpu.empty((2,), torch.float32)
        values.zero_()
        gpu.order(first, then)
        values.clone()
    with gpu.on(then):
        values.zero_()


def _frees_what_another_stream_reads(gpu: CpuDevice) -> None:
    first, then = gpu.stream(), gpu.stream()
    with gpu.on(first):
        values = gpu.empty((2,), torch.float32)
        values.zero_()
    gpu.order(first, then)
    with gpu.on(then):
        values.clone()
    del values


def _records_the_stream_that_it_was_allocated_on(gpu: CpuDevice) -> None:
    first, then = gpu.stream(), gpu.stream()
    with gpu.on(first):
        values = gpu.empty((2,), torch.float32)
        values.zero_()
    gpu.order(first, then)
    with gpu.on(then):
        values.clone()
    gpu.record(values, first)
    del values


def _uses_an_address_that_was_freed(gpu: CpuDevice) -> None:
    values = gpu.empty((2,), torch.float32)
    values.zero_()
    address = values.data_ptr()
    del values
    give(gpu.default.handle, 1, lambda: None, reads=[address])


def _launches_a_graph_of_freed_memory(gpu: CpuDevice) -> None:
    values = gpu.empty((2,), torch.float32)
    address = values.data_ptr()
    launch = gpu.capture(lambda on: give(on, 1, lambda: None, writes=[address]))
    del values
    launch(gpu.default)


def _allocates_in_a_capture(gpu: CpuDevice) -> None:
    gpu.capture(lambda on: vars(gpu).update(made=gpu.empty((2,), torch.float32)))


def _waits_in_a_capture(gpu: CpuDevice) -> None:
    gpu.capture(lambda on: gpu.wait(gpu.default))


def _writes_pinned_memory_that_is_copied(gpu: CpuDevice) -> None:
    host, values = gpu.pinned((2,), torch.float32), gpu.empty((2,), torch.float32)
    host.copy_(torch.ones(2))
    values.copy_(host, non_blocking=True)
    host.copy_(torch.zeros(2))


def _reads_pinned_memory_too_early(gpu: CpuDevice) -> None:
    host, values = gpu.pinned((2,), torch.float32), gpu.empty((2,), torch.float32)
    values.zero_()
    host.copy_(values, non_blocking=True)
    host.clone()


def _runs_a_context_on_two_streams(gpu: CpuDevice) -> None:
    class Context:
        pass

    context = Context()
    for stream in (gpu.stream(), gpu.stream()):
        give(stream.handle, 1, lambda: None, writes=[context])


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (_reads_before_it_is_written, "reads memory that"),
        (_writes_what_is_read, "writes memory that aten.clone"),
        (_frees_what_another_stream_reads, "is freed while"),
        (_records_the_stream_that_it_was_allocated_on, "is freed while"),
        (_uses_an_address_that_was_freed, "uses memory that is free"),
        (_launches_a_graph_of_freed_memory, "a graph on the default stream (0) uses memory that is free"),
        (_allocates_in_a_capture, "allocates during a capture"),
        (_waits_in_a_capture, "waits during a capture"),
        (_writes_pinned_memory_that_is_copied, "the host on the default stream (0) writes memory that a copy"),
        (_reads_pinned_memory_too_early, "the host on the default stream (0) reads memory that a copy"),
        (_runs_a_context_on_two_streams, "an engine on a stream (2) writes memory that an engine on a stream (1)"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_rule_that_is_broken_is_told(gpu: CpuDevice, misuse: list[str], breaks: Callable[..., None], told: str):
    breaks(gpu)
    assert any(told in one for one in misuse), misuse


def test_freed_memory_goes_to_the_next_tensor_of_its_stream(gpu, misuse):
    stream = gpu.stream()
    with gpu.on(stream):
        values = gpu.empty((4,), torch.float32)
        values.zero_()
        address = values.data_ptr()
        del values
        other = gpu.empty((2,), torch.float32)
        again = gpu.empty((4,), torch.float32)
        assert again.data_ptr() == address != other.data_ptr()
    assert misuse == []


def test_memory_that_another_stream_is_recorded_of_is_kept_until_that_has_done_its_work(gpu, misuse):
    stream, other = gpu.stream(), gpu.stream()
    with gpu.on(stream):
        values = gpu.empty((4,), torch.float32)
        values.zero_()
    gpu.order(stream, other)
    with gpu.on(other):
        copied = values.clone()
    gpu.record(values, other)
    address = values.data_ptr()
    del values
    with gpu.on(stream):
        assert gpu.empty((4,), torch.float32).data_ptr() != address
        gpu.wait(other)
        gpu.empty((8,), torch.float32)
        found = [gpu.empty((4,), torch.float32) for _ in range(2)]
    assert address in [one.data_ptr() for one in found]
    assert copied.values.tolist() == [0] * 4
    assert misuse == []


def test_reads_of_one_tensor_need_no_order(gpu, misuse):
    first, then = gpu.stream(), gpu.stream()
    values = gpu.tensor(np.ones(3, np.float32))
    for stream in (first, then):
        with gpu.on(stream):
            values.clone()
        gpu.record(values, stream)
    assert misuse == []


def test_what_runs_first_without_an_order_is_drawn():
    """Else a race might always end well."""
    orders = set()
    for seed in range(8):
        gpu, done = CpuDevice(seed), []
        for name in "ab":
            give(gpu.stream().handle, 1, partial(done.append, name))
        last = gpu.stream()
        for stream in gpu._streams[:-1]:
            gpu.order(stream, last)
        gpu.wait(last)
        orders.add("".join(done))
    assert orders == {"ab", "ba"}
