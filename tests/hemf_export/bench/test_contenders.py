"""Entries of a lineup computing on this CPU, where every one of them has to give PyTorch's logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from hemf_export.bench import contenders, lineup, run
from hemf_export.bench.lineup import ENGINE_KINDS, Entry, Kind
from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import CheckFailedError, HemfError, MissingCapabilityError
from hemf_export.models.description import Description
from hemf_export.models.model_file import ModelFile
from hemf_export.networks.hemf.model import HEMF
from hemf_export.precision.bounds import Bounds, float32_bound
from hemf_export.timing import measurement
from hemf_export.timing.workloads import TensorWorkload
from tests.conftest import TINY


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    shape = (2, TINY.image_size, TINY.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def entry(path: Path, kind: Kind) -> Entry:
    (found,) = lineup.gather([path], Path(), kinds=(kind,), transfers="in", gpu=False).entries
    return found


def description(made) -> Description:
    return ModelFile.open(made.checkpoint).description


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


@pytest.mark.parametrize(
    ("gpu", "largest", "bound"), [(False, 2.0, 1e-4), (False, 25.0, 2.5e-4), (True, 0.5, 1e-4), (True, 25.0, 2.5e-3)]
)
def test_float32_is_bounded_by_its_largest_logit(made, monkeypatch, gpu, largest, bound):
    """Where there is a GPU, the first runner sums on it, even if this one doesn't."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    opened = contenders.open_entry(entry(made.onnx, "ort-cpu"), threads=1)
    assert opened.tolerance(largest) == pytest.approx(bound)
    assert opened.tolerance(largest) <= Bounds().logit_bound(largest) / 20, "far from what float16 may differ by"


def test_float32_on_a_gpu_may_sum_in_another_order_and_not_round_its_factors():
    """A product of a network's size, summed in 16 orders in float32, and with factors rounded to TF32's 10 bits."""
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((16, 4096)).astype(np.float32) for _ in range(2))
    exact = (left.astype(np.float64) * right).sum(1)
    largest = float(np.abs(exact).max())
    orders = [(left[:, order] * right[:, order]).cumsum(1)[:, -1] for order in map(generator.permutation, [4096] * 16)]
    bound = float32_bound(largest, on_gpu=True)
    assert max(np.abs(summed - exact).max() for summed in orders) < bound

    def rounded(values):
        return (np.round(values * 2.0 ** (10 - np.frexp(values)[1] + 1)) * 2.0 ** (np.frexp(values)[1] - 11)).astype(
            float
        )

    assert np.abs((rounded(left) * rounded(right)).sum(1) - exact).max() > bound


def test_an_engine_is_timed_with_its_graph_and_without(made, pixels, monkeypatch):
    from hemf_export.models.runners import OnnxRunner

    asked, closed = [], []

    def load(path, *, cuda_graphs):
        asked.append(cuda_graphs)
        runner = OnnxRunner(made.half)
        runner.close = lambda: closed.append(cuda_graphs)
        return runner

    monkeypatch.setattr(contenders.engines, "load", load)
    for kind in ENGINE_KINDS:
        told = Entry("e", kind, made.half, "cuda", True, "fp16", ModelFile.open(made.half).description)
        opened = contenders.open_entry(told, threads=1)
        work = opened.prepare(pixels)
        work.run()
        assert work.logits().shape == (2, 3)
        opened.close()
        opened.close()
    assert asked == closed == [True, False]


def test_every_mode_is_compiled_at_every_size(made, monkeypatch):
    """By the real TorchDynamo, with the network as it is as a backend: three modes at three sizes are 9 versions."""
    compiled: list[int] = []
    original = torch.compile

    def compile_(model, **_):
        def backend(graph, inputs):
            compiled.append(len(inputs[-1]))
            return graph.forward

        return original(model, backend=backend, dynamic=False)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(HEMF, "forward", lambda self, images: images.mean((2, 3)))
    modes = ("compile", "compile-amp", "compile-graph")
    entries = [Entry(kind, kind, made.checkpoint, "cpu", None, "fp32", description(made)) for kind in modes]
    torch.compiler.reset()
    with contenders.all_sizes_compiled(entries):
        opened = [contenders.open_entry(one, threads=1) for one in entries]
        for size in (1, 2, 3):
            for one in opened:
                one.prepare(np.zeros((size, TINY.image_size, TINY.image_size, 3), np.uint8)).run()
    for one in opened:
        one.close()
    assert sorted(compiled) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_logits_in_memory_that_a_later_run_overwrites_are_kept():
    """torch.compile's CUDA graphs share their memory: each run of any of them "will free tensors of a prior iteration"
    (torch.compiler.cudagraph_mark_step_begin)."""
    shared = torch.empty(2, 3)

    def graph(images):
        return shared.copy_(images.mean((2, 3)))

    works = [
        TensorWorkload(graph, np.full((2, 3, 4, 4), value, np.float32), "cpu", transfers=False, overwritten=True)
        for value in (1.0, 2.0)
    ]
    for work in works:
        work.run()
    assert [float(work.logits()[0, 0]) for work in works] == [1.0, 2.0]


@pytest.mark.parametrize(("kind", "overwritten"), [("compile", False), ("compile-graph", True)])
def test_only_cuda_graphs_of_torch_compile_overwrite_their_logits(made, pixels, monkeypatch, kind, overwritten):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    told = Entry(kind, kind, made.checkpoint, "cpu", False, "fp32", description(made))
    assert contenders.open_entry(told, threads=1).prepare(pixels)._overwritten is overwritten
