"""Layers of an engine: what TensorRT's inspector reports of them, and the times that its profiler measures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hemf_export.engines import census, layers, runtime
from hemf_export.engines.census import Rates
from hemf_export.engines.kernels import Kernel
from hemf_export.engines.layers import Layer
from hemf_export.files.errors import BadInputError, HemfError
from tests.engines import fake_tensorrt as fake
from tests.engines.test_census import SLOW, WHERE, addition, product, tensor


def entry(name: str, kind: str, output: dict[str, Any]) -> dict[str, Any]:
    """A layer as it is described in detail; what goes in is of another type than what comes out."""
    return {
        "Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": "Bool"}],
        "Outputs": [{"Name": "y", "Location": "Device", "Dimensions": [1, 64, 112, 112], **output}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("output", "precision"),
    [
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "fp16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Float"}, "fp32"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Int8"}, "int8"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Datatype": "Half", "Format": "Channel major format where channel % 8 == 0"}, "fp16"),
        ({"Datatype": "Int8", "Format": "kCHW32"}, "int8"),
        ({"Format/Datatype": "UInt8"}, "uint8"),
        ({"Format/Datatype": "Int32"}, "int32"),
        ({"Format/Datatype": "Int64"}, "int64"),
        ({"Format/Datatype": "Bool"}, "bool"),
        ({"Format/Datatype": "BFloat16"}, "bf16"),
        ({"Format/Datatype": "Complex64"}, "unknown"),
        ({"Format/Datatype": None}, "unknown"),
        ({}, "unknown"),
    ],
    ids=str,
)
def test_the_precision_is_that_of_what_comes_out(output, precision):
    text = json.dumps({"Layers": [entry("conv + relu", "CaskConvolution", output)], "Bindings": ["x"]})
    assert layers.parse(text) == [Layer("conv + relu", "CaskConvolution", precision)]


def test_names_alone_tell_nothing_else():
    assert layers.parse('{"Layers": ["conv + relu", "head"], "Bindings": ["x"]}') == [
        Layer("conv + relu", "unknown", "unknown"),
        Layer("head", "unknown", "unknown"),
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("conv + relu\nhead", 0),
        ('{"Layers": [', 0),
        ("[]", 0),
        ("null", 0),
        ("{}", 0),
        ('{"Layers": null}', 0),
        ('{"Layers": {"Name": "conv"}}', 0),
        ('{"Layers": 3}', 0),
        ('{"Layers": [null, 3]}', 2),
        ('{"Layers": [{}]}', 1),
        ('{"Layers": [{"Outputs": null}]}', 1),
        ('{"Layers": [{"Outputs": []}]}', 1),
        ('{"Layers": [{"Outputs": ["y"]}]}', 1),
        ('{"Layers": [{"Outputs": {"Format/Datatype": "Half"}}]}', 1),
        ('{"Layers": [{"Outputs": 3}]}', 1),
        ('{"Layers": [{"Name": null, "LayerType": ["a"]}]}', 1),
    ],
)
def test_what_is_malformed_is_unknown_and_no_failure(text, count):
    assert [layer.precision for layer in layers.parse(text)] == ["unknown"] * count


def test_the_table_counts_kinds_and_precisions():
    found = [Layer(str(index), *pair) for index, pair in enumerate((
        ("CaskConvolution", "int8"), ("kgen", "int8"), ("kgen", "fp16"), ("kgen", "int8"), ("Reformat", "fp32"),
        ("CaskConvolution", "int8"),
    ))]  # fmt: skip
    table = layers.table(found)
    assert table == {"kgen": {"fp16": 1, "int8": 2}, "CaskConvolution": {"int8": 2}, "Reformat": {"fp32": 1}}
    assert list(table) == ["kgen", "CaskConvolution", "Reformat"], "the most frequent kind first"
    assert layers.table([]) == {}


LAYERS = [
    Layer("cast", "CAST", "fp32"),
    Layer("pool", "REDUCE", "fp32"),
    Layer("head", "MATRIX_MULTIPLY", "fp32"),
]


@pytest.mark.parametrize("profiles", [("1:2:4",), ("1:1:1", "2:4:8"), ("2:2:2",)], ids=str)
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_the_layers_of_an_engine_of_dynamic_shapes(tmp_path, profiles, backend):
    with fake.installed():
        path = fake.engine(fake.classifier(tmp_path / "m.onnx"), profiles=profiles, backend=backend)
        found = layers.inspect(runtime.deserialize(path, here=fake.MACHINE))
    assert found.layers == LAYERS
    assert [kernel.outputs[0].dtype for kernel in found.kernels] == ["fp32"] * 3
    assert found.kernels[0].outputs[0].shape == (int(profiles[0].split(":")[1]), 3), "at the optimum"
    assert found.note is None


def test_the_layers_of_an_engine_of_fixed_shapes(tmp_path):
    with fake.installed():
        path = fake.engine(fake.classifier(tmp_path / "m.onnx", batch=2))
        found = layers.inspect(runtime.deserialize(path, here=fake.MACHINE))
    assert (found.layers, found.note) == (LAYERS, None)


def test_without_a_context_layers_are_listed_and_the_reason_is_told(tmp_path, monkeypatch):
    with fake.installed():
        path = fake.engine(fake.classifier(tmp_path / "m.onnx"))
        loaded = runtime.deserialize(path, here=fake.MACHINE)
        monkeypatch.setenv("FAKE_TENSORRT", "no-context")
        found = layers.inspect(loaded)
    assert found.layers == [Layer(one.name, one.kind, "unknown") for one in LAYERS]
    assert found.note is not None
    assert "may be unknown: TensorRT gives no execution context: OutOfMemory" in found.note


@pytest.mark.parametrize(
    ("fields", "precision"),
    [
        ({"Weights": {"Type": "Half", "Count": 864}}, "fp16"),
        ({"Weights": {"Type": "Int8", "Count": 864}}, "int8"),
        ({"Weights": {"Type": "Int64", "Count": 2}, "TacticName": "turing_scudnn_128x32_relu_small_nn_v1"}, "fp32"),
        ({"TacticName": "sm75_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x32"}, "fp16"),
        ({"TacticName": "turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1"}, "fp16"),
        ({"TacticName": "turing_fp16_s1688cudnn_fp16_256x64_ldg8_relu_f2f_exp_small_nhwc_tn_v1"}, "fp16"),
        ({"TacticName": "sm75_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32"}, "int8"),
        ({"TacticName": "turing_int8_i8816cudnn_int8_256x64_ldg16_relu_singleBuffer_small_nt_v1"}, "int8"),
        ({"TacticName": "sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64"}, "bf16"),
        ({"TacticName": "volta_sgemm_64x32_sliced1x4_nn_v0"}, "fp32"),
        ({"TacticName": "__myl_Fc_0x37"}, "unknown"),
        ({"TacticName": ["f16f16"], "Weights": "Half"}, "fp16"),
        ({}, "unknown"),
    ],
    ids=str,
)
def test_where_types_are_hidden_the_weights_or_the_tactic_tell_them(fields, precision):
    hidden = entry("conv", "CaskConvolution", {"Format/Datatype": "N/A due to dynamic shapes"})
    text = json.dumps({"Layers": [{**hidden, **fields}]})
    assert layers.parse(text) == [Layer("conv", "CaskConvolution", precision)]


# Times, by the profiler of the fake TensorRT


@pytest.fixture
def tensorrt():
    with fake.installed() as patch:
        yield patch


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_every_layer_has_the_median_of_its_runs(tensorrt, tmp_path, backend):
    loaded = runtime.deserialize(fake.engine(fake.classifier(tmp_path / "m.onnx"), backend=backend), here=fake.MACHINE)
    found = layers.measure_times(loaded, fake.CpuDevice(), 2, runs=5)
    kinds = [kind for _, kind, _ in loaded.engine._values["layers"]]
    expected = [place * 0.5 * (1 + (kind == "CAST")) for place, kind in enumerate(kinds, 1)]
    assert list(found.values()) == pytest.approx(expected)
    assert list(found) == [name for name, _, _ in loaded.engine._values["layers"]]


def test_a_batch_outside_the_profiles_is_refused(tensorrt, tmp_path):
    loaded = runtime.deserialize(
        fake.engine(fake.classifier(tmp_path / "m.onnx"), profiles=("4:8:8",)), here=fake.MACHINE
    )
    with pytest.raises(BadInputError, match="A batch of 2 is outside"):
        layers.measure_times(loaded, fake.CpuDevice(), 2)


def test_an_engine_that_tells_no_times_is_told(tensorrt, tmp_path):
    loaded = runtime.deserialize(fake.engine(fake.classifier(tmp_path / "m.onnx")), here=fake.MACHINE)
    loaded.engine._values["layers"] = []
    with pytest.raises(HemfError, match="reports no times of layers"):
        layers.measure_times(loaded, fake.CpuDevice(), 2)


def test_measured_and_modelled_times_are_compared_kernel_by_kernel():
    large = Kernel("l", "kgen", (tensor("y", 2, 400),), (), (tensor("z", 2, 400),))
    counted = census.of([product(), addition(), large], **WHERE, batch=2)
    rates = Rates(1, 1, 0.0, overlapped=True)
    modelled = {"g": 128e-6, "a": 32e-6, "l": 3200e-6}
    exact = layers.compare_times(modelled, counted, SLOW, 2, rates=rates)
    assert (exact.matched, exact.unmatched) == (3, 0)
    assert exact.correlation == pytest.approx(1)
    assert exact.measured_ms == pytest.approx(exact.modelled_ms)
    measured = {"g": 1000e-6, "a": 3000e-6, "l": 3200e-6, "of no kernel": 5.0}
    found = layers.compare_times(measured, counted, SLOW, 2, rates=rates)
    assert (found.matched, found.unmatched) == (3, 1)
    assert [one.kernel for one in found.kernels] == ["a", "g", "l"], "the worst first"
    assert found.correlation == pytest.approx(0.5)
    assert layers.compare_times({"a": 1.0}, counted, SLOW, 2).correlation is None
