"""ONNX Runtime's providers for GPUs: what they are told, and that nothing else is timed in their name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail

from hemf_export.bench import provider_runner
from hemf_export.bench.provider_runner import OrtWorkload, ProviderRunner
from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.timing.workloads import HostWorkload
from tests.hemf_export.bench.onnx_sessions import Sessions, of_one_batch
from tests.hemf_export.triton.models import SIDE, means

BATCH = np.ones((1, 3, SIDE, SIDE), np.float32)
CAPI = Path(onnxruntime.__file__).parent / "capi"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the providers start here")
in_linux_wheel = pytest.mark.skipif(
    not (CAPI / "libonnxruntime_providers_tensorrt.so").is_file(), reason="this ONNX Runtime is no GPU build for Linux"
)


@pytest.fixture
def path(tmp_path) -> Path:
    return means(tmp_path / "m.onnx")


@pytest.fixture(autouse=True)
def turing(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)


@no_gpu
@in_linux_wheel
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_real_provider_without_its_libraries_names_the_first_that_is_missing(path, provider, capfd):
    with pytest.raises(MissingCapabilityError, match=rf"{provider} doesn't start here.*lib\w+\.so\.\d+ is not found"):
        ProviderRunner(path, provider)
    assert capfd.readouterr().out == "", "stdout is for results, and ONNX Runtime prints there"


@in_linux_wheel
def test_the_options_are_the_provider_s_own_names():
    """ONNX Runtime refuses an unknown option, though only where TensorRT is installed."""
    known = (CAPI / "libonnxruntime_providers_tensorrt.so").read_bytes()
    (_, options), _ = provider_runner._providers("TensorrtExecutionProvider", "int8")
    assert all(name.encode() in known for name in options)
    assert not re.search(rb"trt_\w*tf32", known), "with such an option float32 needn't be refused"


@pytest.mark.parametrize(
    ("precision", "reduced"), [("fp32", ("False", "False")), ("fp16", ("True", "False")), ("int8", ("True", "True"))]
)
def test_tensorrt_is_told_which_types_a_file_has(path, monkeypatch, precision, reduced):
    sessions = Sessions().install(monkeypatch)
    ProviderRunner(path, "TensorrtExecutionProvider", precision=precision)
    (providers,) = sessions.asked
    told = dict(zip(("trt_fp16_enable", "trt_int8_enable"), reduced, strict=True))
    assert providers == [("TensorrtExecutionProvider", told), ("CUDAExecutionProvider", {"use_tf32": "0"})]


def test_what_tensorrt_refuses_is_not_computed_by_cuda_in_its_name(path, monkeypatch, capfd):
    """Neither where the session is created, nor where an engine is built in the first run."""
    monkeypatch.setattr(provider_runner, "_missing_library", lambda provider: None)
    refused = RuntimeError("[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP failed to create engine from network.")
    sessions = Sessions(creating=refused).install(monkeypatch)
    with pytest.raises(HemfError, match="failed to create engine"):
        ProviderRunner(path, "TensorrtExecutionProvider", precision="int8")
    assert len(sessions.asked) == 1
    Sessions(failing_runs=["int8 is not configured in the builder"]).install(monkeypatch)
    runner = ProviderRunner(path, "TensorrtExecutionProvider", precision="int8")
    with pytest.raises(EPFail, match="int8 is not configured"):
        runner.infer(BATCH)
    assert "EP Error" not in capfd.readouterr().out


def test_other_providers_than_asked_for_are_refused_after_a_run_too(path, monkeypatch):
    Sessions().install(monkeypatch)
    runner = ProviderRunner(path, "CUDAExecutionProvider")
    runner.infer(BATCH)
    runner._session._providers = ["CPUExecutionProvider"]
    with pytest.raises(MissingCapabilityError, match="doesn't start here"):
        runner.infer(BATCH)


def test_a_kernel_s_error_is_passed_on(tmp_path, monkeypatch):
    Sessions().install(monkeypatch)
    runner = ProviderRunner(of_one_batch(tmp_path, 1), "CUDAExecutionProvider")
    assert runner.infer(BATCH).shape == (1, 3)
    with pytest.raises(Fail, match="Reshape"):
        runner.infer(np.concatenate([BATCH, BATCH]))


def test_float32_in_tf32_is_refused(path, monkeypatch):
    sessions = Sessions().install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    with pytest.raises(MissingCapabilityError, match=r"float32 in TF32.*NVIDIA_TF32_OVERRIDE=0"):
        ProviderRunner(path, "TensorrtExecutionProvider")
    assert sessions.asked == []
    ProviderRunner(path, "TensorrtExecutionProvider", precision="fp16")
    ProviderRunner(path, "CUDAExecutionProvider")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    ProviderRunner(path, "TensorrtExecutionProvider")
    assert len(sessions.asked) == 3


@in_linux_wheel
def test_tensorrt_of_another_version_is_named(path, monkeypatch):
    """pip's newest tensorrt is 11; the provider is linked against the library of 10."""
    library = re.search(rb"libnvinfer\.so\.\d+", (CAPI / "libonnxruntime_providers_tensorrt.so").read_bytes())[0]
    Sessions(creating=RuntimeError("Please install TensorRT libraries as mentioned")).install(monkeypatch)
    monkeypatch.setattr(provider_runner.backends, "installed_version", lambda name: "11.4.0.32")

    def load(name):
        raise OSError(f"{library.decode()}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(provider_runner.ctypes, "CDLL", load)
    with pytest.raises(MissingCapabilityError) as caught:
        ProviderRunner(path, "TensorrtExecutionProvider", precision="fp16")
    assert "it is made for TensorRT 10 (libnvinfer.so.10 is not found), and tensorrt 11.4.0.32" in str(caught.value)
    assert "pip install 'tensorrt==10.*'" in str(caught.value)


def test_a_build_without_the_provider_is_told(path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingCapabilityError, match="built without CUDAExecutionProvider"):
        ProviderRunner(path, "CUDAExecutionProvider")


def test_batches_lie_on_the_host_or_stay_on_the_gpu(path, monkeypatch):
    """The binding is a stand-in: one to a GPU's memory needs a GPU."""
    Sessions().install(monkeypatch)
    calls = []
    binding = SimpleNamespace(
        bind_ortvalue_input=lambda name, value: calls.append((name, value)),
        bind_output=lambda name, device: calls.append((name, device)),
        synchronize_outputs=lambda: calls.append("synchronized"),
        copy_outputs_to_cpu=lambda: [np.full((1, 3), 5.0, np.float32)],
    )
    runner = ProviderRunner(path, "CUDAExecutionProvider")
    monkeypatch.setattr(runner._session, "io_binding", lambda: binding)
    monkeypatch.setattr(runner._session, "run_with_iobinding", lambda bound: calls.append("run"))
    fake = SimpleNamespace(OrtValue=SimpleNamespace(ortvalue_from_numpy=lambda batch, device, index: (device, index)))
    inside = HostWorkload(runner, BATCH)
    inside.run()
    np.testing.assert_allclose(inside.logits(), 1.0)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    outside = OrtWorkload(runner, BATCH)
    outside.run()
    assert calls == [("images", ("cuda", 0)), ("logits", "cuda"), "run", "synchronized"]
    assert outside.logits()[0, 0] == 5.0
