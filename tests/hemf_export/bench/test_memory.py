"""Memory of one runner: measured in its own process, on a GPU that the timing process has left."""

from __future__ import annotations

import json
import sys
import weakref
from types import SimpleNamespace

import pynvml
import pytest
import torch

from hemf_export.bench import contenders, memory, memory_worker
from hemf_export.bench import run as bench_run
from hemf_export.bench.lineup import Entry, gather
from hemf_export.models.model_file import ModelFile
from hemf_export.timing import measurement

CONTEXT, MODEL = 300_000_000, 50_000_000


@pytest.fixture
def entry(made) -> Entry:
    (found,) = gather([made.onnx], made.folder, kinds=("ort-cpu",), transfers="in", gpu=False).entries
    return found


class Gpu:
    """A GPU as NVML reports it: the figure of `nvmlDeviceGetMemoryInfo` covers all processes' contexts (nvml.h).

    CUDA's own (`cudaMemGetInfo`, and so `torch.cuda.mem_get_info`) makes a context first, in the process that asks.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.used = 1_000_000_000  # by others
        patch.setattr(pynvml, "nvmlInit", lambda: None)
        patch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", {"GPU-x": "T4"}.__getitem__)
        patch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(used=self.used))
        patch.setattr(torch.cuda, "mem_get_info", self.mem_get_info)
        opened = contenders.open_entry

        def open_entry(*arguments, **settings):
            found = opened(*arguments, **settings)
            self.used += CONTEXT + MODEL
            return found

        patch.setattr(contenders, "open_entry", open_entry)

    def mem_get_info(self) -> tuple[int, int]:
        pytest.fail("it makes a context, whose memory isn't measured any more then")


def test_a_gpu_s_memory_includes_the_context(made, monkeypatch, capsys):
    Gpu(monkeypatch)
    on_gpu = Entry("e", "ort-cpu", made.onnx, "cuda", True, "fp32", ModelFile.open(made.onnx).description)
    request = {"entry": on_gpu.to_dict(), "batch": 1, "threads": 1, "gpu": "GPU-x"}
    memory_worker.main(json.dumps(request))
    assert json.loads(capsys.readouterr().out)["gpu_bytes"] == CONTEXT + MODEL


def test_without_nvml_a_gpu_s_memory_is_not_told(made, monkeypatch, capsys):
    def refuse(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    on_gpu = Entry("e", "ort-cpu", made.onnx, "cuda", True, "fp32", ModelFile.open(made.onnx).description)
    memory_worker.main(json.dumps({"entry": on_gpu.to_dict(), "batch": 1, "threads": 1, "gpu": None}))
    assert json.loads(capsys.readouterr().out)["gpu_bytes"] is None


def test_every_runner_is_closed_before_memory_is_measured(made, monkeypatch):
    """They would fill the GPU on which the children measure."""
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)
    alive: list[weakref.ref] = []
    seen: list[int] = []

    def torch_function(model, mode, device, made_by=contenders.torch_function):
        alive.append(weakref.ref(model))
        return made_by(model, mode, device)

    class Watched(contenders.OnnxRunner):
        def __init__(self, *arguments, **settings) -> None:
            super().__init__(*arguments, **settings)
            alive.extend((weakref.ref(self), weakref.ref(self._session)))

    def measure(entry, batch, **_):
        seen.append(sum(one() is not None for one in alive))

    monkeypatch.setattr(contenders, "torch_function", torch_function)
    monkeypatch.setattr(contenders, "OnnxRunner", Watched)
    monkeypatch.setattr(memory, "measure", measure)
    request = bench_run.Request(
        (made.checkpoint, made.onnx), batches=(1,), seconds=0.02, threads=1, kinds=("eager", "ort-cpu"), memory=True
    )
    assert len(bench_run.run(request).timings) == 2
    assert len(alive) == 3
    assert seen == [0, 0]


def test_the_child_is_told_which_gpu(entry, monkeypatch):
    asked = []

    def command(module, request):
        asked.append(json.loads(request)["gpu"])
        return [sys.executable, "-c", "raise SystemExit(1)"]

    monkeypatch.setattr(memory.child, "command", command)
    assert memory.measure(entry, 1, threads=1, gpu="GPU-x") is None
    assert asked == ["GPU-x"]


@pytest.mark.extended
def test_a_child_tells_the_memory_of_one_runner(entry):
    found = memory.measure(entry, 1, threads=1)
    assert found is not None
    assert found.peak_rss_bytes >= found.imports_rss_bytes > 20e6
    assert found.gpu_bytes is None


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('no JSON')", "pass", "import time; time.sleep(60)"])
def test_a_child_that_fails_or_hangs_tells_nothing(entry, monkeypatch, code):
    monkeypatch.setattr(memory.child, "command", lambda *arguments: [sys.executable, "-c", code])
    assert memory.measure(entry, 1, threads=1, timeout_s=1.0) is None
