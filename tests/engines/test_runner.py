"""Running engines, on a fake TensorRT that computes on the CPU: batches, profiles, threads, graphs, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.calibration.session import Session
from hemf_export.engines import layers, runtime
from hemf_export.files.errors import BadInputError, MissingCapabilityError
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_records import records


@pytest.fixture(autouse=True)
def tensorrt():
    with fake.installed() as patch:
        yield patch


def images(count: int, raw: bool = False) -> np.ndarray:
    generator = np.random.default_rng(count)
    if raw:
        return generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return generator.standard_normal((count, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_any_batch_gives_what_the_graph_gives(tmp_path, raw, cuda_graphs, backend):
    graph = fake.classifier(tmp_path / "m.onnx", raw=raw)
    expected = Session(graph)
    with fake.load(fake.engine(graph, backend=backend), cuda_graphs=cuda_graphs) as runner:
        for count in (1, 3, 4, 9, 1):  # 9 is run in parts
            batch = images(count, raw)
            np.testing.assert_allclose(runner.infer(batch), expected.logits(batch), rtol=1e-5, atol=1e-6)
            found = runner.infer(torch.from_numpy(batch))
            assert isinstance(found, torch.Tensor)
            np.testing.assert_allclose(found.numpy(), expected.logits(batch), rtol=1e-5, atol=1e-6)


def test_each_batch_size_is_captured_once(tmp_path):
    device = fake.CpuDevice()
    runner = fake.load(fake.engine(fake.classifier(tmp_path / "m.onnx")), device)
    for count in (2, 4, 2, 4, 2):
        runner.infer(images(count))
    assert device.captured == [2, 4]
    assert device.replayed >= 3


def test_the_range_is_told_for_a_batch_outside_the_profiles(tmp_path):
    runner = fake.load(fake.engine(fake.classifier(tmp_path / "m.onnx"), profiles=("4:8:8", "16:16:16")))
    with pytest.raises(BadInputError, match=r"A batch of 3 is outside .* it takes 4 to 8 and 16"):
        runner.infer(images(3))
    with pytest.raises(BadInputError):
        runner.infer(images(0))
    assert len(runner.infer(images(16))) == 16


@pytest.mark.parametrize(
    ("profiles", "count", "parts", "filled"),
    [
        (("1:2:4",), 9, [4, 4, 1], 9),
        (("3:4:4",), 9, [3, 3, 3], 9),
        (("4:8:8", "16:16:16"), 20, [16, 4], 20),
        (("4:8:8", "16:16:16"), 19, [7, 6, 6], 19),
        (("4:8:8", "16:16:16"), 3, None, 4),
        (("1:1:1", "8:8:8"), 6, [1] * 6, 6),
        (("1:1:1", "8:8:8"), 18, [8, 8, 1, 1], 18),
        (("1:1:2", "3:3:5", "8:8:8"), 13, [8, 5], 13),
        (("2:2:2", "8:8:8"), 3, None, 4),
        (("4:4:5",), 7, None, 8),
        (("4:4:5",), 11, None, 12),
        (("3:3:3",), 4, None, 6),
        (("2:2:4",), 0, None, 2),
    ],
    ids=str,
)
def test_a_batch_is_run_in_parts_that_fit_or_has_to_be_filled_up(tmp_path, profiles, count, parts, filled):
    runner = fake.load(fake.engine(fake.classifier(tmp_path / "m.onnx"), profiles=profiles))
    if parts is None:
        with pytest.raises(BadInputError, match=f"A batch of {count} is outside"):
            runner.interface.parts(count)
    else:
        assert runner.interface.parts(count) == parts
    assert runner.interface.filled(count) == filled
    assert len(runner.infer(images(filled))) == filled


@pytest.mark.parametrize("batch", [np.zeros((1, 3, 9, 8), np.float32), np.zeros((1, 3, 8, 8), np.uint8)])
def test_another_shape_or_type_is_found_against_expected(tmp_path, batch):
    runner = fake.load(fake.engine(fake.classifier(tmp_path / "m.onnx")))
    with pytest.raises(BadInputError, match=r"takes \(N, 3, 8, 8\) float32, not"):
        runner.infer(batch)


def test_eight_threads_get_their_own_logits(tmp_path):
    graph = fake.classifier(tmp_path / "m.onnx")
    expected, runner = Session(graph), fake.load(fake.engine(graph), contexts=3)
    batches = [images(1 + number % 4) + number for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(runner.infer, batches))
    for own, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(own, expected.logits(batch), rtol=1e-5, atol=1e-5)


def test_compiled_kernels_are_kept_beside_the_engine_and_a_damaged_file_is_begun_anew(tmp_path):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), backend="tensorrt-rtx")
    fake.load(path).infer(images(2))
    kept = next(tmp_path.glob("*.runtime-cache"))
    before = kept.read_bytes()
    again = fake.load(path)
    again.infer(images(2))
    assert again.notes == []
    assert kept.read_bytes() == before, "nothing was compiled again"
    kept.write_bytes(before[:-1])
    third = fake.load(path)
    assert "is damaged; a new one is begun" in third.notes[0]
    third.infer(images(2))
    assert kept.read_bytes() == before


def test_tensorrt_rtx_compiles_kernels_before_it_runs_them(tmp_path):
    """By default it runs fallback kernels meanwhile (`DynamicShapesKernelSpecializationStrategy` of the bindings)."""
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), backend="tensorrt-rtx")
    fake.load(path).infer(images(2))
    layers.measure_times(runtime.deserialize(path, here=fake.MACHINE), fake.CpuDevice(), 3, runs=2)
    assert records.run_on_fallback_kernels == []
    assert records.compiled == [2, 3]


def test_what_was_compiled_since_the_last_run_is_kept_at_the_end(tmp_path):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), backend="tensorrt-rtx")
    with fake.load(path) as runner:
        runner.infer(images(2))
        kept = next(tmp_path.glob("*.runtime-cache"))
        before = kept.read_bytes()
        records.contexts[-1]._config._cache._compile(4)
        assert kept.read_bytes() == before
    fake.load(path).infer(images(4))
    assert kept.read_bytes() != before
    assert records.compiled == [2, 4], "not compiled again"


def test_without_any_place_for_compiled_kernels_an_engine_runs_all_the_same(tmp_path, tensorrt):
    """As in a container whose user has no home, with a model that is mounted read-only."""
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), backend="tensorrt-rtx")
    for name in ("HEMF_EXPORT_CACHE", "XDG_CACHE_HOME"):
        tensorrt.delenv(name, raising=False)
    tensorrt.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    tensorrt.setattr("pathlib.Path.expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    with fake.load(path) as runner:
        assert len(runner.infer(images(2))) == 2
        assert "Compiled kernels are not kept: This user has no home folder" in runner.notes[0]


def test_a_changed_byte_is_refused_before_tensorrt_sees_it(tmp_path, tensorrt):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    module = fake.fake_flavours.flavour("tensorrt")
    tensorrt.setattr(module.Runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("it was deserialized"))
    with pytest.raises(BadInputError, match="SHA-256"):
        fake.load(path)


def test_a_plan_without_a_manifest_needs_trust_and_is_tried_in_a_child_first(tmp_path, tensorrt):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), manifest=False)
    with pytest.raises(BadInputError, match="`trust`"):
        fake.load(path)
    tried: list[Path] = []
    tensorrt.setattr(runtime, "_try_in_a_child", lambda plan, backend: tried.append(plan))
    assert len(fake.load(path, trust=True).infer(images(2))) == 2
    assert tried == [path]


def test_another_gpu_is_exit_4(tmp_path):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"), changes={"compute_capability": "sm_89"})
    with pytest.raises(MissingCapabilityError, match="built for sm_89; this GPU is sm_75"):
        fake.load(path)
