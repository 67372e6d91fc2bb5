"""The programs that Triton's Python backend runs, without Triton: batches, engines (a fake TensorRT), and refusals."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from hemf_export.triton import repository
from hemf_export.triton.options import Options
from tests.engines import fake_flavours, fake_records
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_network import VERSIONS
from tests.hemf_export.bench.onnx_sessions import Sessions
from tests.hemf_export.triton.models import SIDE, described, means


class TritonError(Exception):
    pass


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton gives the program to import."""
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.TritonModelException = utils.TritonError = TritonError
    utils.get_input_tensor_by_name = lambda request, name: request[name]
    utils.Tensor = SimpleNamespace(from_dlpack=lambda name, values: (name, np.from_dlpack(values)))
    utils.InferenceResponse = lambda tensors, error=None: SimpleNamespace(tensors=dict(tensors), error=error)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "CPU", **changes: str) -> Any:
    """The model of a version's folder, initialized as Triton would."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    monkeypatch.delitem(sys.modules, "hemf_runner", raising=False)
    monkeypatch.syspath_prepend(folder)
    text = (folder.parent / "config.pbtxt").read_text()
    config = json_format.MessageToDict(
        text_format.Parse(text, model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )
    for key, value in changes.items():
        config["parameters"][key] = {"string_value": value}
    module_spec = importlib.util.spec_from_file_location("served_model", folder / "model.py")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    device = {"model_instance_kind": kind, "model_instance_device_id": "0"}
    model.initialize({"model_config": json.dumps(config), **device})
    return model


def ask(model: Any, *batches: np.ndarray) -> list[Any]:
    """One request for each batch, all put together by the server."""
    return model.execute([{"images": one} for one in batches])


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [None, 4])
def test_each_request_gets_its_own_logits(tmp_path, monkeypatch, batch):
    path = means(tmp_path / "m.onnx", raw=True, batch=batch)
    made = repository.write([path], tmp_path / "repo", Options(backend="python", threads=1)).models[0]
    model = load(made.folder / "1", monkeypatch)
    given = [pixels(count, count) for count in (1, 3, 2)]
    for one, answer in zip(given, ask(model, *given), strict=True):
        assert answer.error is None
        assert answer.tensors["logits"].dtype == np.float32
        np.testing.assert_allclose(answer.tensors["logits"], one.astype(np.float64).mean((1, 2)), rtol=1e-5)


def test_a_batch_that_fails_is_an_error_of_its_requests_alone(tmp_path, monkeypatch):
    made = repository.write([means(tmp_path / "m.onnx")], tmp_path / "repo", Options(backend="python")).models[0]
    model = load(made.folder / "1", monkeypatch)
    answers = ask(model, np.zeros((1, 3, 5, 5), np.float32), np.zeros((2, 3, 5, 5), np.float32))
    assert len(answers) == 2
    assert all("images" in str(answer.error) for answer in answers)
    assert ask(model, np.zeros((1, 3, SIDE, SIDE), np.float32))[0].error is None


def test_a_model_that_was_changed_is_not_loaded(tmp_path, monkeypatch):
    made = repository.write([means(tmp_path / "m.onnx")], tmp_path / "repo", Options(backend="python")).models[0]
    path = made.folder / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(TritonError, match="is not the file that its manifest describes"):
        load(made.folder / "1", monkeypatch)


@pytest.fixture
def for_a_gpu(tmp_path) -> Path:
    """The folder of a version for a GPU."""
    options = Options(backend="python", device="gpu")
    return repository.write([means(tmp_path / "m.onnx")], tmp_path / "repo", options).models[0].folder / "1"


def test_a_gpu_that_onnx_runtime_cannot_use_is_no_quiet_cpu(for_a_gpu, monkeypatch):
    """The real ONNX Runtime, which has the provider and not its libraries, and one for CPUs alone."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and not torch.cuda.is_available():
        with pytest.raises(TritonError, match="CUDAExecutionProvider doesn't start: it needs the CUDA and cuDNN"):
            load(for_a_gpu, monkeypatch, kind="GPU")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TritonError, match=r"has no CUDAExecutionProvider.*install onnxruntime-gpu"):
        load(for_a_gpu, monkeypatch, kind="GPU")


def test_a_gpu_that_fails_in_a_run_is_not_replaced_by_the_cpu(for_a_gpu, monkeypatch):
    sessions = Sessions(failing_runs=["CUDA failure 700: an illegal memory access was encountered"])
    sessions.install(monkeypatch)
    model = load(for_a_gpu, monkeypatch, kind="GPU")
    image = np.zeros((1, 3, SIDE, SIDE), np.float32)
    assert "an illegal memory access" in str(ask(model, image)[0].error)
    assert ask(model, image)[0].error is None
    assert len(sessions.asked) == 1, "the session wasn't made anew"


def test_a_session_that_cannot_be_made_on_a_gpu_is_not_made_on_the_cpu(for_a_gpu, monkeypatch):
    sessions = Sessions(creating=RuntimeError("CUDA failure 2: out of memory")).install(monkeypatch)
    with pytest.raises(TritonError, match="out of memory"):
        load(for_a_gpu, monkeypatch, kind="GPU")
    assert len(sessions.asked) == 1


def test_float32_on_a_gpu_is_not_tf32(for_a_gpu, monkeypatch):
    sessions = Sessions().install(monkeypatch)
    load(for_a_gpu, monkeypatch, kind="GPU")
    assert sessions.asked == [[("CUDAExecutionProvider", {"device_id": 0, "use_tf32": "0"})]]


class Cuda:
    """The driver's interface on a machine without one: memory of the host, and a stream of the fake TensorRT."""

    def __init__(self, gpu: int) -> None:
        self.stream, self.name = 0x77 + gpu, "Tesla T4"
        fake_records.streams[self.stream] = deque()
        self._kept: list[np.ndarray] = []

    def use(self) -> None:
        pass

    def allocate(self, count: int) -> int:
        self._kept.append(np.zeros(count, np.uint8))
        return self._kept[-1].ctypes.data

    def _memory(self, address: int) -> np.ndarray:
        return next(one for one in self._kept if one.ctypes.data == address)

    def upload(self, address: int, values: np.ndarray) -> None:
        data = values.tobytes()
        fake_records.streams[self.stream].append(lambda: self._write(address, data))

    def _write(self, address: int, data: bytes) -> None:
        self._memory(address)[: len(data)] = np.frombuffer(data, np.uint8)

    def download(self, values: np.ndarray, address: int) -> None:
        def copy() -> None:
            values.view(np.uint8).reshape(-1)[:] = self._memory(address)[: values.nbytes]

        fake_records.streams[self.stream].append(copy)

    def wait(self) -> None:
        work = fake_records.streams[self.stream]
        while work:
            work.popleft()()


@pytest.fixture
def rtx() -> Iterator[ModuleType]:
    """A fake TensorRT-RTX to import."""
    with fake.installed():
        yield sys.modules["tensorrt_rtx"]


def engine(folder: Path, **options: Any) -> Path:
    """An engine of the fake TensorRT-RTX with its manifest."""
    graph = fake.classifier(folder / "g.onnx", raw=True)
    profiles = options.get("profiles", ("1:2:4",))
    tensors = [
        {"name": "images", "mode": "input", "type": "UINT8", "shape": [-1, SIDE, SIDE, 3]},
        {"name": "logits", "mode": "output", "type": "FLOAT", "shape": [-1, 3]},
    ]
    changes = {**described("fp16", "uint8").to_dict(), "tensors": tensors}
    return fake.engine(graph, backend="tensorrt-rtx", name="m.engine", changes=changes, profiles=profiles)


def expected(images: np.ndarray) -> np.ndarray:
    products = np.array([[1, -2, 0.5], [0, 1, 3], [-1, 0.25, 1]]) / 16
    return images.astype(np.float64).mean((1, 2)) @ products


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's cache folder."""
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def served_engine(folder: Path, monkeypatch: pytest.MonkeyPatch, options: Options, **settings: Any) -> Any:
    """The model of an engine, initialized on the fake TensorRT-RTX."""
    place = folder / "repo" / "m" / "1"
    if not place.is_dir():
        place = repository.write([engine(folder, **settings)], folder / "repo", options).models[0].folder / "1"
    from hemf_export.triton.served import engine_runner

    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the driver was called"))
    text = Path(engine_runner.__file__).read_text().split("\nclass Cuda:")[0]
    (place / "hemf_runner.py").unlink()
    (place / "hemf_runner.py").write_text(text + f"\nfrom {__name__} import Cuda\n")
    return load(place, monkeypatch, kind="GPU")


@pytest.mark.parametrize("profiles", [("1:2:4",), ("1:1:1", "2:4:4"), ("2:3:4",), ("4:4:4",)])
@pytest.mark.parametrize("graphs", [True, False])
def test_an_engine_of_tensorrt_rtx(tmp_path, monkeypatch, rtx, cache, profiles, graphs):
    model = served_engine(tmp_path, monkeypatch, Options(backend="python", cuda_graphs=graphs), profiles=profiles)
    for counts in ((1,), (4,), (1, 2, 3), (9,)):
        given = [pixels(count, count) for count in counts]
        for one, answer in zip(given, ask(model, *given), strict=True):
            assert answer.error is None, answer.error
            np.testing.assert_allclose(answer.tensors["logits"], expected(one), rtol=1e-4, atol=1e-4)
    strategies = {context._config.cuda_graph_strategy.name for context in fake_records.records.contexts}
    assert strategies == {"WHOLE_GRAPH_CAPTURE" if graphs else "DISABLED"}
    assert fake_records.records.run_on_fallback_kernels == []


def test_kernels_that_a_server_compiled_are_there_at_its_next_start(tmp_path, monkeypatch, rtx, cache, capfd):
    options = Options(backend="python")
    model = served_engine(tmp_path, monkeypatch, options)
    before = sorted((tmp_path / "repo").rglob("*"))
    for count in (1, 4, 4):
        assert ask(model, pixels(count))[0].error is None
    model.finalize()
    assert sorted((tmp_path / "repo").rglob("*")) == before, "a server that polls would load the model again"
    (kept,) = cache.rglob("*.runtime-cache")
    assert "tesla-t4" in kept.name
    assert fake_records.records.compiled == [1, 4]
    assert ask(served_engine(tmp_path, monkeypatch, options), pixels(4))[0].error is None
    assert fake_records.records.compiled == [1, 4]
    kept.write_bytes(kept.read_bytes()[:-1])
    assert ask(served_engine(tmp_path, monkeypatch, options), pixels(4))[0].error is None
    assert fake_records.records.compiled == [1, 4, 4]
    assert "is damaged" in capfd.readouterr().err


def test_what_was_compiled_last_is_kept_when_the_model_is_unloaded(tmp_path, monkeypatch, rtx, cache):
    model = served_engine(tmp_path, monkeypatch, Options(backend="python"))
    ask(model, pixels(1))
    fake_records.records.contexts[-1]._config._cache._compile(3)
    model.finalize()
    ask(served_engine(tmp_path, monkeypatch, Options(backend="python")), pixels(3))
    assert fake_records.records.compiled == [1, 3]


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_a_server_that_cannot_write_its_cache_serves_all_the_same(tmp_path, monkeypatch, rtx, cache, capfd, place):
    if place == "a file":
        cache.write_bytes(b"")  # for root, no folder is read-only
    else:
        for name in ("HEMF_EXPORT_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
    model = served_engine(tmp_path, monkeypatch, Options(backend="python"))
    if place == "no home":
        monkeypatch.setattr("pathlib.Path.expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
        model = served_engine(tmp_path, monkeypatch, Options(backend="python"))
    for _ in range(2):
        answer = ask(model, pixels(2))[0]
        assert answer.error is None, answer.error
    model.finalize()
    assert capfd.readouterr().err.count("the cache of compiled kernels") >= 1


@pytest.mark.parametrize(
    ("kind", "told", "message"),
    [("CPU", "", "needs a GPU"), ("GPU", "1.6.0.1", f"was built by TensorRT-RTX {VERSIONS['tensorrt-rtx']}")],
)
def test_an_engine_that_is_not_for_this_server(tmp_path, monkeypatch, rtx, kind, told, message):
    made = repository.write([engine(tmp_path)], tmp_path / "repo", Options(backend="python")).models[0]
    if told:
        monkeypatch.setattr(rtx, "__version__", told)
    with pytest.raises(TritonError, match=message):
        load(made.folder / "1", monkeypatch, kind=kind)


def test_without_a_driver_the_reason_is_told(tmp_path, monkeypatch, rtx):
    made = repository.write([engine(tmp_path)], tmp_path / "repo", Options(backend="python")).models[0]
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(f"{name}: cannot open")))
    with pytest.raises(TritonError, match="libcuda"):
        load(made.folder / "1", monkeypatch, kind="GPU")


def test_the_fake_is_of_the_flavour_that_the_program_imports():
    assert fake_flavours.flavour("tensorrt-rtx").__name__ == "tensorrt_rtx"
