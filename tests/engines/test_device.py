"""Capturing by the CUDA driver's API, on a driver that is made up: what is called, and what a failure leaves behind.

Names, arguments and results are those of cuda.h (CUDA 12): cuStreamBeginCapture_v2, cuStreamEndCapture,
cuGraphInstantiateWithFlags, cuGraphLaunch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from hemf_export.engines.device import CaptureError, Graph
from hemf_export.files.errors import HemfError

STREAM, GRAPH, READY = 0x51, 0x52, 0x53
RUN_ONCE = ["cuStreamCreate", "cuStreamSynchronize"]
INVALIDATED = 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED


class Driver:
    """The driver's library: notes its calls, gives handles, and fails where it is told to."""

    def __init__(self, **fails: int) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            plain = tuple(getattr(one, "value", one) for one in arguments)
            self.calls.append((name, *plain))
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"operation failed due to a previous error during capture"
                return 0
            made = {"cuStreamCreate": (0, STREAM), "cuStreamEndCapture": (1, GRAPH)}
            made["cuGraphInstantiateWithFlags"] = (0, READY)
            if name in made and name not in self.fails:
                place, value = made[name]
                arguments[place]._obj.value = value
            return self.fails.get(name, 0)

        return call

    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]


def test_a_graph_is_captured_on_a_stream_of_its_own_and_launched_on_any():
    driver, seen = Driver(), []
    graph = Graph(driver, lambda stream: seen.append((stream, driver.names())))
    assert seen == [(STREAM, ["cuStreamCreate"]), (STREAM, [*RUN_ONCE, "cuStreamBeginCapture_v2"])]
    assert driver.names() == [
        *RUN_ONCE, "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy",
        "cuStreamDestroy_v2",
    ]  # fmt: skip
    assert driver.calls[0][2] == 1, "not blocked by the legacy default stream"
    assert driver.calls[2][1:] == (STREAM, 1), "other threads go on meanwhile"
    driver.calls.clear()
    graph.launch(0x99)
    assert driver.calls == [("cuGraphLaunch", READY, 0x99)]
    del graph
    assert driver.calls[-1] == ("cuGraphExecDestroy", READY)


@pytest.mark.parametrize(
    ("name", "freed"),
    [
        ("cuStreamCreate", []),
        ("cuStreamSynchronize", ["cuStreamDestroy_v2"]),
        ("cuStreamBeginCapture_v2", ["cuStreamDestroy_v2"]),
        ("cuStreamEndCapture", ["cuStreamDestroy_v2"]),
        ("cuGraphInstantiateWithFlags", ["cuGraphDestroy", "cuStreamDestroy_v2"]),
    ],
)
def test_a_capture_that_fails_is_an_error_and_leaves_nothing_behind(name, freed):
    driver = Driver(**{name: INVALIDATED})
    with pytest.raises(CaptureError, match=f"{name}: operation failed due to a previous error"):
        Graph(driver, lambda stream: None)
    assert [call for call in driver.names() if "Destroy" in call] == freed


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (HemfError("TensorRT can't run a batch of 2: no reason"), CaptureError),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), RuntimeError),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt),
    ],
)
def test_work_that_cannot_be_enqueued_ends_the_capture_too(error, told):
    driver = Driver(cuStreamEndCapture=INVALIDATED)

    def enqueue(stream: int) -> None:
        if "cuStreamBeginCapture_v2" in driver.names():
            raise error

    with pytest.raises(told, match=str(error)):
        Graph(driver, enqueue)
    assert driver.names() == [*RUN_ONCE, "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuStreamDestroy_v2"]


def test_work_that_cannot_even_be_run_is_not_captured():
    driver = Driver()

    def enqueue(stream: int) -> None:
        raise HemfError("TensorRT can't run a batch of 2: no reason")

    with pytest.raises(CaptureError, match="TensorRT can't run a batch of 2"):
        Graph(driver, enqueue)
    assert driver.names() == ["cuStreamCreate", "cuStreamDestroy_v2"]


def test_a_launch_that_fails_is_told():
    driver = Driver(cuGraphLaunch=719)
    graph = Graph(driver, lambda stream: None)
    with pytest.raises(HemfError, match="A CUDA graph can't be launched: cuGraphLaunch: operation failed"):
        graph.launch(1)


def test_handles_are_passed_as_pointers():
    """ctypes passes a plain int as 32 bits."""

    class Checked(Driver):
        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)

            def checked(*arguments: Any) -> int:
                for one in arguments:
                    assert not isinstance(one, int) or one < 2**31, (name, one)
                    assert isinstance(one, (int, ctypes.c_void_p, ctypes.c_ulonglong)) or hasattr(one, "_obj")
                return call(*arguments)

            return checked

    Graph(Checked(), lambda stream: None).launch(2**40)
