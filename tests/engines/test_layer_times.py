"""Times of layers by TensorRT's profiler, on a fake one, and how they are set beside the model."""

from __future__ import annotations

import pytest

from hemf_export.engines import census, layer_times, runtime
from hemf_export.engines.census import Rates
from hemf_export.engines.kernels import Kernel
from hemf_export.files.errors import BadInputError, HemfError
from tests.engines import fake_tensorrt as fake
from tests.engines.test_census import SLOW, WHERE, addition, product, tensor


@pytest.fixture(autouse=True)
def tensorrt():
    with fake.installed() as patch:
        yield patch


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_every_layer_has_the_median_of_its_runs(tmp_path, backend):
    loaded = runtime.deserialize(fake.engine(fake.classifier(tmp_path / "m.onnx"), backend=backend), here=fake.MACHINE)
    found = layer_times.measure(loaded, fake.CpuDevice(), 2, runs=5)
    kinds = [kind for _, kind, _ in loaded.engine._values["layers"]]
    expected = [place * 0.5 * (1 + (kind == "CAST")) for place, kind in enumerate(kinds, 1)]
    assert list(found.values()) == pytest.approx(expected)
    assert list(found) == [name for name, _, _ in loaded.engine._values["layers"]]


def test_a_batch_outside_the_profiles_is_refused(tmp_path):
    loaded = runtime.deserialize(
        fake.engine(fake.classifier(tmp_path / "m.onnx"), profiles=("4:8:8",)), here=fake.MACHINE
    )
    with pytest.raises(BadInputError, match="A batch of 2 is outside"):
        layer_times.measure(loaded, fake.CpuDevice(), 2)


def test_an_engine_that_tells_no_times_is_told(tmp_path):
    loaded = runtime.deserialize(fake.engine(fake.classifier(tmp_path / "m.onnx")), here=fake.MACHINE)
    loaded.engine._values["layers"] = []
    with pytest.raises(HemfError, match="tells no times of layers"):
        layer_times.measure(loaded, fake.CpuDevice(), 2)


def test_measured_and_modelled_times_are_compared_kernel_by_kernel():
    large = Kernel("l", "kgen", (tensor("y", 2, 400),), (), (tensor("z", 2, 400),))
    counted = census.of([product(), addition(), large], **WHERE, batch=2)
    rates = Rates(1, 1, 0.0, overlapped=True)
    modelled = {"g": 128e-6, "a": 32e-6, "l": 3200e-6}
    exact = layer_times.compare(modelled, counted, SLOW, 2, rates=rates)
    assert (exact.matched, exact.unmatched) == (3, 0)
    assert exact.correlation == pytest.approx(1)
    assert exact.measured_ms == pytest.approx(exact.modelled_ms)
    measured = {"g": 1000e-6, "a": 3000e-6, "l": 3200e-6, "of no kernel": 5.0}
    found = layer_times.compare(measured, counted, SLOW, 2, rates=rates)
    assert (found.matched, found.unmatched) == (3, 1)
    assert [miss.kernel for miss in found.misses] == ["a", "g", "l"], "the worst first"
    assert found.correlation == pytest.approx(0.5)
    assert layer_times.compare({"a": 1.0}, counted, SLOW, 2).correlation is None
