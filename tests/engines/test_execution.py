"""Running engines on a stand-in for a GPU that checks order and lifetime (`fake_cuda`), where CUDA lets errors pass.

`fake.installed` fails a test in which a rule was broken.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemf_export.calibration.session import Session
from hemf_export.engines.execution import KEPT_SIZES
from hemf_export.engines.runner import EngineRunner
from hemf_export.files.errors import HemfError, UsageError
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_cuda import CpuDevice, Stream
from tests.engines.fake_network import ILogger
from tests.engines.fake_records import records, streams
from tests.engines.test_runner import images


@pytest.fixture(autouse=True)
def tensorrt():
    with fake.installed() as patch:
        yield patch


@pytest.fixture(params=range(4))
def gpu(request: pytest.FixtureRequest) -> CpuDevice:
    """A GPU, in several of the orders that work may run in."""
    return CpuDevice(request.param)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return fake.classifier(tmp_path / "m.onnx")


def load(graph: Path, gpu: CpuDevice, *, profiles: tuple[str, ...] = ("1:2:4",), **options: Any) -> EngineRunner:
    return fake.load(fake.engine(graph, profiles=profiles), gpu, **options)


def ask(runner: EngineRunner, gpu: CpuDevice, stream: Stream, batch: np.ndarray) -> np.ndarray:
    """Call the runner from a stream of its own: work before, work behind, and memory freed as soon as it may be.

    The batch was allocated on another stream, as by a loader of images.
    """
    loader = gpu.stream()
    with gpu.on(loader):
        given = gpu.tensor(batch / 2).mul_(2)
    gpu.order(loader, stream)
    gpu.record(given, stream)
    with gpu.on(stream):
        logits = runner.infer(given)
        del given
        twice = logits * 2
        del logits
        gpu.tensor(np.full(batch.shape, 7, np.float32))  # would be laid where a freed batch was
        return twice.cpu().numpy() / 2


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("profiles", [("1:2:4",), ("1:1:1", "2:2:4")], ids=str)
def test_a_caller_on_a_stream_of_its_own(graph, gpu, cuda_graphs, profiles):
    runner, stream = load(graph, gpu, profiles=profiles, cuda_graphs=cuda_graphs), gpu.stream()
    expected = Session(graph)
    for count in (2, 2, 4, 11, 1, 2):  # 11 is run in parts
        batch = images(count)
        np.testing.assert_allclose(
            ask(runner, gpu, stream, batch), expected.logits(batch), rtol=1e-5, atol=1e-6, err_msg=str(count)
        )


def test_four_threads_on_four_streams(graph, gpu):
    runner, expected = load(graph, gpu, contexts=2), Session(graph)
    streams = [gpu.stream() for _ in range(4)]

    def several(number: int) -> None:
        for round_ in range(6):
            batch = images(1 + (number + round_) % 6) + number
            found = ask(runner, gpu, streams[number], batch)
            np.testing.assert_allclose(found, expected.logits(batch), rtol=1e-5, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(several, range(4)))


def test_batches_of_the_host_and_of_the_gpu_take_turns(graph, gpu):
    runner, expected, stream = load(graph, gpu, contexts=1), Session(graph), gpu.stream()
    for count in (2, 3, 2):
        batch = images(count)
        np.testing.assert_allclose(runner.infer(batch), expected.logits(batch), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ask(runner, gpu, stream, batch), expected.logits(batch), rtol=1e-5, atol=1e-6)


def test_more_sizes_than_are_kept_make_room_while_work_is_under_way(graph, gpu):
    runner, expected = load(graph, gpu, profiles=("1:8:16",), contexts=1), Session(graph)
    batches = [images(1 + number % (KEPT_SIZES + 4)) for number in range(2 * KEPT_SIZES + 8)]
    with gpu.on(gpu.stream()):
        found = [runner.infer(gpu.tensor(batch)) for batch in batches]
        for one, batch in zip(found, batches, strict=True):
            np.testing.assert_allclose(one.cpu().numpy(), expected.logits(batch), rtol=1e-5, atol=1e-6)


def test_what_is_enqueued_when_a_runner_is_closed_is_done_before_its_contexts_are_destroyed(graph, gpu):
    runner, caller = load(graph, gpu), gpu.stream()
    with gpu.on(caller):
        logits = runner.infer(gpu.tensor(images(2)))
        assert gpu.pending() > 0
        runner.close()
        others = [stream for stream in gpu._streams if stream is not caller]
        assert not any(stream.work for stream in others)
        np.testing.assert_allclose(logits.cpu().numpy(), Session(graph).logits(images(2)), rtol=1e-5)


def test_a_size_that_cannot_be_captured_is_run_without_a_graph(graph, gpu):
    gpu.uncapturable = {2}
    runner, expected, stream = load(graph, gpu), Session(graph), gpu.stream()
    with gpu.on(stream):
        for count in (2, 4, 2, 2):
            batch = images(count)
            found = runner.infer(gpu.tensor(batch))
            assert gpu.current() is stream, "the caller's stream is current as before"
            np.testing.assert_allclose(found.cpu().numpy(), expected.logits(batch), rtol=1e-5, atol=1e-6)
    assert gpu.captured == [4]
    assert runner.notes == [
        "A batch of 2 is run without a CUDA graph, as it can't be captured: operation not permitted when stream is "
        "capturing"
    ]


def test_an_engine_that_refuses_to_be_captured_is_run_without_a_graph(graph, gpu, tensorrt):
    context = fake.fake_flavours.flavour("tensorrt").IExecutionContext
    original = context.execute_async_v3
    tensorrt.setattr(
        context, "execute_async_v3", lambda self, on: isinstance(streams[on], Stream) and original(self, on)
    )
    runner = load(graph, gpu)
    np.testing.assert_allclose(runner.infer(images(2)), Session(graph).logits(images(2)), rtol=1e-5, atol=1e-6)
    assert gpu.captured == []
    assert "can't be captured: TensorRT can't run a batch of 2" in runner.notes[0]


def test_buffers_made_in_inference_mode_serve_outside_of_it(graph, gpu):
    runner = load(graph, gpu)
    with torch.inference_mode():
        first = runner.infer(images(2))
    np.testing.assert_array_equal(runner.infer(images(2)), first)


def test_a_batch_with_gradients_leaves_no_history_in_the_buffers(graph, gpu):
    """It would grow with each batch."""
    runner = load(graph, gpu)
    assert not runner.infer(torch.from_numpy(images(2)).requires_grad_()).requires_grad
    (slot,) = runner._idle.queue[0]._slots.values()
    assert not any(one.requires_grad for one in (slot.host_input, slot.input, slot.output, slot.host_output))


# What the stand-in is for: the same runs, with one of the runner's precautions left out


class Forgetful(CpuDevice):
    """A GPU whose user leaves out one call."""

    def __init__(self, forgets: str) -> None:
        super().__init__()
        self.forgets = forgets

    def record(self, tensor: torch.Tensor, stream: Stream) -> None:
        own = stream is self.current()
        if self.forgets == ("a reader" if own and self._outside() else "a batch's user"):
            return
        super().record(tensor, stream)

    def order(self, first: Stream, then: Stream) -> None:
        if self.forgets != ("to be led" if then is self.current() else "to follow"):
            super().order(first, then)

    def wait(self, stream: Stream) -> None:
        if self.forgets != "to wait" or stream is self.current():
            super().wait(stream)

    def _outside(self) -> bool:
        return self.current() is self.caller

    caller: Stream


@pytest.mark.parametrize("forgets", ["a reader", "a batch's user", "to be led", "to follow", "to wait"])
def test_a_precaution_that_is_left_out_is_found(graph, forgets):
    gpu = Forgetful(forgets)
    gpu.caller = gpu.stream()
    runner = load(graph, gpu, cuda_graphs=False)
    for _ in range(2):
        if forgets == "to wait":
            runner.infer(images(2))
        else:
            ask(runner, gpu, gpu.caller, images(9))
    assert records.misuse
    records.misuse.clear()


# Warming up


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_after_a_warm_up_no_request_compiles_captures_or_waits(graph, gpu, backend):
    path = fake.engine(graph, backend=backend, profiles=("1:1:1", "2:4:8"))
    runner = fake.load(path, gpu, contexts=3)
    runner.warm_up()
    graphs = backend == "tensorrt"
    assert gpu.captured == ([1, 4] * 3 if graphs else []), "the optimum of each profile, in each context"
    assert sorted(records.compiled) == ([] if graphs else [1, 4])
    waits, contexts = gpu.waits, len(records.contexts)
    with ThreadPoolExecutor(3) as pool, gpu.on(gpu.stream()):
        batches = [gpu.tensor(images(count)) for count in (1, 4, 4)]
        waits = gpu.waits
        list(pool.map(runner.infer, batches))
    assert (gpu.waits, len(records.contexts)) == (waits, contexts)
    assert len(gpu.captured) == (6 if graphs else 0)


def test_sizes_to_warm_up_are_divided_and_counted(graph, gpu):
    runner = load(graph, gpu, profiles=("1:8:16",), contexts=1)
    runner.warm_up([40, 3])
    assert gpu.captured == [3, 8, 16], "40 is run as 16, 16 and 8"
    with pytest.raises(UsageError, match="9 batch sizes are to be warmed up, and 8 are kept"):
        runner.warm_up(range(1, 10))


def test_two_warm_ups_at_once_do_not_wait_for_each_other(graph, gpu):
    runner = load(graph, gpu, contexts=2)
    threads = [threading.Thread(target=runner.warm_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert gpu.captured == [2, 2]


def test_memory_that_runs_out_is_told_as_such(graph, gpu, tensorrt):
    def none(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    runner = load(graph, gpu)
    runner.infer(images(1))
    tensorrt.setattr(gpu, "empty", none)
    with pytest.raises(HemfError, match="The GPU's memory doesn't hold a batch of 2 images") as caught:
        runner.infer(images(2))
    assert "smaller batches" in str(caught.value.hint)
    tensorrt.undo()


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("IExecutionContext::enqueueV3: Error Code 2: OutOfMemory (Requested size was 4096 bytes.)", True),
        ("Requested amount of GPU memory (4096 bytes) could not be allocated.", True),
        ("IExecutionContext::enqueueV3: Error Code 3: API Usage Error", False),
    ],
)
def test_memory_that_tensorrt_lacks_is_told_as_such(graph, tensorrt, message, memory):
    context = fake.fake_flavours.flavour("tensorrt").IExecutionContext

    def fails(self: Any, stream: int) -> bool:
        self._engine._logger.log(ILogger.Severity.ERROR, message)
        return False

    tensorrt.setattr(context, "execute_async_v3", fails)
    with pytest.raises(HemfError, match="can't run a batch of 2") as caught:
        load(graph, CpuDevice()).infer(images(2))
    assert message in caught.value.message
    assert ("smaller batches" in str(caught.value.hint)) == memory
