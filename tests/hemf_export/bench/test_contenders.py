"""Entries of a lineup computing on this CPU, where every one of them has to give PyTorch's logits."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from hemf_export.bench import contenders, lineup, memory, run
from hemf_export.bench.contenders import OrtWorkload, ProviderRunner
from hemf_export.bench.lineup import ENGINE_KINDS, Entry, Kind
from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import CheckFailedError, HemfError, MissingCapabilityError
from hemf_export.models.model_file import ModelFile
from hemf_export.timing import measurement
from hemf_export.timing.workloads import HostWorkload, TensorWorkload
from tests.conftest import TINY


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    shape = (2, TINY.image_size, TINY.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def entry(path: Path, kind: Kind) -> Entry:
    (found,) = lineup.gather([path], Path(), kinds=(kind,), transfers="in", gpu=False).entries
    return found


def logits(path: Path, kind: Kind, pixels: np.ndarray) -> np.ndarray:
    work = contenders.open_entry(entry(path, kind), threads=1).prepare(pixels)
    work.run()
    return work.logits()


@pytest.fixture(scope="module")
def expected(made, pixels) -> np.ndarray:
    saved = checkpoint.load(made.checkpoint)
    with torch.inference_mode():
        return saved.model()(torch.from_numpy(saved.preprocess.normalize(pixels))).numpy()


@pytest.mark.parametrize("kind", ["eager", "channels-last"])
def test_pytorch_in_float32(made, pixels, expected, kind):
    np.testing.assert_allclose(logits(made.checkpoint, kind, pixels), expected, atol=1e-4)


def test_amp_is_bfloat16_on_a_cpu_and_keeps_to_its_tolerance(made, pixels, expected):
    difference = np.abs(logits(made.checkpoint, "amp", pixels) - expected).max()
    assert 1e-5 < difference <= contenders.TOLERANCES["bf16"](float(np.abs(expected).max()))


def test_onnx_runtime_on_the_cpu(made, pixels, expected):
    np.testing.assert_allclose(logits(made.onnx, "ort-cpu", pixels), expected, atol=1e-4)


def test_compiling_goes_by_mode_and_gives_the_same(made, pixels, expected, monkeypatch):
    asked = []

    def compile_(model, **options):
        asked.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    np.testing.assert_allclose(logits(made.checkpoint, "compile", pixels), expected, atol=1e-4)
    assert asked == [{"mode": "default", "dynamic": False}]


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("InvalidCxxCompiler: No working C++ compiler found", MissingCapabilityError, "no C\\+\\+ compiler"),
        ("RuntimeError: Failed to find C compiler. Please specify", MissingCapabilityError, "no C compiler: .*CC=…"),
        (
            "backend='inductor' raised:\nRuntimeError: Failed to find C compiler.",
            MissingCapabilityError,
            "no C compiler",
        ),
        ("Unsupported: a graph break", HemfError, "torch.compile fails: Unsupported"),
    ],
)
def test_a_compiler_that_is_missing_or_fails_is_told(made, pixels, monkeypatch, said, kind, told):
    def compile_(model, **_):
        def fail(images):
            raise TorchDynamoException(f"{said}\n\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    compiled = contenders.open_entry(entry(made.checkpoint, "compile"), threads=1)
    with pytest.raises(kind, match=told) as caught:
        compiled.prepare(pixels).run()
    assert type(caught.value) is kind
    eager = contenders.open_entry(entry(made.checkpoint, "eager"), threads=1)
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)
    found, not_run = measurement.measure([eager, compiled], pixels, seconds=0.01)
    assert ([timing.name for timing in found], not_run[0].failed) == (["eager, model.pt"], False)


def test_float32_is_no_tf32(monkeypatch, tmp_path):
    seen = []

    def run_(*_: object) -> None:
        seen.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
        raise CheckFailedError("Enough.")

    monkeypatch.setattr(run, "run", run_)
    with pytest.raises(CheckFailedError):
        run.benchmark(run.Request((tmp_path / "model.pt",)))
    assert seen == [("ieee", "ieee")]
    assert torch.backends.cudnn.conv.fp32_precision == "tf32", "as PyTorch starts"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        # Triton's, where a kernel is launched for the first time (triton/runtime/build.py).
        (RuntimeError("Failed to find C compiler. Please specify via CC"), MissingCapabilityError, "no C compiler"),
        (
            TorchDynamoException("OutOfMemoryError: CUDA out of memory. Tried"),
            TorchDynamoException,
            "CUDA out of memory",
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError, "device-side assert"),
    ],
)
def test_what_a_compiled_network_raises_as_it_runs(made, monkeypatch, error, kind, told):
    def fail(images):
        raise error

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    model = checkpoint.load(made.checkpoint).model()
    compute = contenders.torch_function(model, contenders.TORCH_MODES["compile"], "cpu")
    with pytest.raises(kind, match=told) as raised:
        compute(torch.zeros(1))
    assert type(raised.value) is kind


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path, made):
    saved = checkpoint.load(made.checkpoint)
    saved.state["head.weight"] = saved.state["head.weight"] * float("nan")
    checkpoint.save(saved, tmp_path / "nan.pt")
    with pytest.raises((CheckFailedError, HemfError), match=r"head\.weight"):
        contenders.open_entry(entry(tmp_path / "nan.pt", "eager"), threads=1)


def test_a_gpu_whose_memory_is_full_suggests_smaller_batches():
    def full(images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    work = TensorWorkload(full, np.zeros((1, 3, 4, 4), np.float32), "cpu", transfers=True)
    with pytest.raises(HemfError, match="`batch`"):
        work.run()


def test_a_tensor_lies_as_asked():
    seen = []
    batch = np.zeros((2, 3, 4, 4), np.float32)
    for channels_last in (False, True):
        work = TensorWorkload(
            lambda images: seen.append(images.stride()) or images.mean((2, 3)), batch, "cpu", transfers=True,
            channels_last=channels_last,
        )  # fmt: skip
        work.run()
        assert work.logits().shape == (2, 3)
    assert seen == [(48, 16, 4, 1), (48, 1, 12, 3)]


class FakeOnnxRuntime(SimpleNamespace):
    """ONNX Runtime with a GPU build; its sessions have the providers in `started`."""

    def __init__(self, started: tuple[str, ...], built: tuple[str, ...] = ("CUDAExecutionProvider",)) -> None:
        made = SimpleNamespace(calls=[])
        node = SimpleNamespace(name="images")

        class Binding:
            def bind_ortvalue_input(self, name, value):
                made.calls.append((name, value))

            def bind_output(self, name, device):
                made.calls.append((name, device))

            def synchronize_outputs(self):
                made.calls.append("synchronized")

            def copy_outputs_to_cpu(self):
                return [np.ones((1, 2), np.float32)]

        class InferenceSession:
            def __init__(self, path, options, providers):
                made.providers = providers
                print("EP Error, falling back")  # as it does  # noqa: T201

            def get_providers(self):
                return [*started, "CPUExecutionProvider"]

            def get_inputs(self):
                return [node]

            get_outputs = get_inputs

            def io_binding(self):
                return Binding()

            def run_with_iobinding(self, binding):
                made.calls.append("run")

            def run(self, names, feed):
                return [np.full((1, 2), 2.0, np.float32)]

        value = SimpleNamespace(ortvalue_from_numpy=lambda batch, device, index: (device, index))
        super().__init__(
            made=made, InferenceSession=InferenceSession, OrtValue=value,
            SessionOptions=lambda: SimpleNamespace(log_severity_level=2),
            get_available_providers=lambda: list(built),
        )  # fmt: skip


def test_a_provider_that_falls_back_to_the_cpu_is_a_refusal(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(started=()))
    with pytest.raises(MissingCapabilityError, match="CUDAExecutionProvider doesn't start here"):
        ProviderRunner(Path("m.onnx"), "CUDAExecutionProvider")
    assert capsys.readouterr().out == "", "stdout is for results"
    with pytest.raises(MissingCapabilityError, match="built without TensorrtExecutionProvider"):
        ProviderRunner(Path("m.onnx"), "TensorrtExecutionProvider")


def test_a_provider_takes_batches_from_the_host_or_leaves_them_on_the_gpu(monkeypatch):
    fake = FakeOnnxRuntime(started=("CUDAExecutionProvider",))
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    runner = ProviderRunner(Path("m.onnx"), "CUDAExecutionProvider")
    assert fake.made.providers == [("CUDAExecutionProvider", {"use_tf32": "0"})]
    batch = np.zeros((1, 3, 4, 4), np.float32)
    inside, outside = HostWorkload(runner, batch), OrtWorkload(runner, batch)
    inside.run()
    assert inside.logits()[0, 0] == 2.0
    outside.run()
    assert fake.made.calls == [("images", ("cuda", 0)), ("images", "cuda"), "run", "synchronized"]
    assert outside.logits()[0, 0] == 1.0


def test_an_engine_is_timed_with_its_graph_and_without(made, pixels, monkeypatch):
    from hemf_export.models.runners import OnnxRunner

    asked = []

    def load(path, *, cuda_graphs):
        asked.append(cuda_graphs)
        return OnnxRunner(made.half)

    monkeypatch.setattr(contenders.engines, "load", load)
    for kind in ENGINE_KINDS:
        told = Entry("e", kind, made.half, "cuda", True, "fp16", ModelFile.open(made.half).description)
        work = contenders.open_entry(told, threads=1).prepare(pixels)
        work.run()
        assert work.logits().shape == (2, 3)
    assert asked == [True, False]


@pytest.mark.extended
def test_a_child_tells_the_memory_of_one_runner(made):
    found = memory.measure(entry(made.onnx, "ort-cpu"), 1, threads=1)
    assert found is not None
    assert found.peak_rss_bytes >= found.imports_rss_bytes > 20e6
    assert found.gpu_bytes is None


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('no JSON')", "pass", "import time; time.sleep(60)"])
def test_a_child_that_fails_or_hangs_tells_nothing(made, monkeypatch, code):
    monkeypatch.setattr(memory.child, "command", lambda *arguments: [sys.executable, "-c", code])
    assert memory.measure(entry(made.onnx, "ort-cpu"), 1, threads=1, timeout_s=1.0) is None
