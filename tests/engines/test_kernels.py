"""Kernels read from what builders say: recorded and made-up lists, cut, strange and huge ones."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemf_export.engines import kernels
from hemf_export.engines.kernels import Kernel, Tensor

LISTS = Path(__file__).parent / "kernel_lists"
FP16 = "tensorrt-rtx-1.7.1-sm75-fp16.txt"


def lines(name: str) -> list[str]:
    return (LISTS / name).read_text(encoding="utf-8").splitlines(keepends=True)


def named(found: list[Kernel], start: str) -> Kernel:
    return next(kernel for kernel in found if kernel.name.startswith(start))


def half(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, (), "fp16")


def test_a_recorded_list_of_tensorrt_rtx_is_read_kernel_by_kernel():
    found = kernels.parse(lines(FP16))
    assert Counter(kernel.kind for kernel in found) == {
        "kgen": 4, "gemm": 3, "correlation": 2, "runtime_fusion": 2, "avgpool": 1
    }, "signals and waits are no kernels"  # fmt: skip
    first = found[0]
    assert first.inputs[0] == Tensor(
        "images", (1, 3, 224, 224), (150528, 50176, 224, 1), "fp32", "(Linear) Row major linear format"
    )
    assert first.onnx_nodes == ("images_to_fp16", "local_steps.0.patches/permute")
    assert (first.activation_bytes, first.weight_bytes) == (224 * 224 * 3 * (4 + 2), 0)
    gemm = named(found, "global_steps.0.patches.projection")
    assert [tensor.shape for tensor in gemm.constants] == [(48, 192), (1,), (1,)]
    assert (gemm.multiply_adds, gemm.product_type) == (3136 * 48 * 192, "fp16")
    assert gemm.weight_bytes == 48 * 192 * 2 + 4 + 4
    assert gemm.activation_bytes == 2 * (3136 * 48 + 3136 * 192)
    sliced = named(found, "__myl_AddCastResh")
    assert sliced.inputs[0].bytes == 3136 * 96 * 2, "a slice of a wider buffer counts what is read"
    assert all(kernel.activation_bytes is not None for kernel in found)
    assert {kernel.stream for kernel in found} > {0, 1}


@pytest.mark.parametrize(
    ("start", "multiply_adds"),
    [
        ("_gemm_mha_v2", 448 * 56 * 56 * (16 + 16)),
        ("local_stages.0.0.convolution", 96 * 56 * 56 * 96 * 9),
        ("global_stages.0.retentions.0.positional", 96 * 56 * 56 * 8 * 25),  # spread to eight channels a group
        ("__myl_FcAddAdd", 784 * 768 * 192),  # its other input is added
        ("__myl_CorrDiv", 96 * 56 * 56 * 96 * 9),
        ("fusion_stages.0.global_attention.mhea/matmul_18", 8 * 64 * 16 * 3136),
        ("__myl_Slic", 0),
    ],
)
def test_work_of_each_kind_of_product(start, multiply_adds):
    kernel = named(kernels.parse(lines(FP16)), start)
    assert kernel.multiply_adds == multiply_adds
    assert kernel.is_fused_attention == start.startswith("_gemm_mha")
    assert kernel.product_type == ("fp16" if multiply_adds else None)


def test_a_quantized_convolution_is_what_it_computes_in():
    """Recorded: of the same graph, sm_75 dequantizes the weights and convolves in half, sm_86 convolves in int8."""
    old, new = (kernels.parse(lines(f"tensorrt-rtx-1.7.1-sm{sm}-int8.txt")) for sm in (75, 86))
    for found, dtype in ((old, "fp16"), (new, "int8")):
        (product,) = (kernel for kernel in found if kernel.is_product)
        assert product.product_type == dtype
        assert "node_of_c" in product.onnx_nodes
        assert product.multiply_adds == 56 * 56 * 96 * 96 * 9
    assert [kernel.weight_bytes for kernel in old[:1]] == [96 * 2 + 96 * 96 * 9], "weights in int8, scales in half"


def test_each_optimization_profile_has_kernels_of_its_own():
    found = kernels.parse(lines("tensorrt-rtx-1.7.1-sm75-two-profiles.txt"))
    assert [kernel.profile for kernel in found] == [0, 0, 0, 1, 1, 1]
    assert found[0].activation_bytes is None, "the batch of the first profile is open"
    assert found[3].activation_bytes == 3136 * (64 + 192) * 2
    three_slices = found[4]
    assert three_slices.activation_bytes == 64 * 49 * (192 + 64) * 2, "one buffer, listed three times, is read once"


def test_lists_of_tensorrt_10_and_11():
    """Made up: no TensorRT can be run here."""
    copy, first, int8, sums = kernels.parse(lines("tensorrt-10-verbose.txt"))
    assert (copy.kind, copy.product_type, copy.onnx_nodes) == ("Reformat", None, ())
    assert (first.product_type, first.multiply_adds) == ("fp16", 2 * 16 * 16 * 16 * 27)
    assert first.weight_bytes == 2 * 432
    assert first.onnx_nodes == ("/stem/conv/Conv", "/stem/act/Relu")
    assert (int8.product_type, int8.inputs[0].dtype) == ("int8", "int8")
    assert sums.product_type is None, "a product that became a sum is a generated kernel"
    assert [tensor.name for tensor in sums.constants] == ["__mye116_dconst"], "weights among the inputs are weights"
    gemm, conv = kernels.parse_json((LISTS / "tensorrt-11-inspector.json").read_text(encoding="utf-8"))
    assert (gemm.product_type, gemm.multiply_adds, gemm.stream) == ("int8", 8 * 64 * 32, 1)
    assert gemm.onnx_nodes == ("/q", "/head/MatMul")
    assert (conv.product_type, conv.multiply_adds, conv.weight_bytes) == ("fp32", 4 * 16 * 8, 128)


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON", '{"Layers": 3}', '{"Layers": ["a", {"Name": 1}, null]}'])
def test_an_inspector_without_details_gives_no_kernels(text):
    assert kernels.parse_json(text) == []


def test_a_log_cut_anywhere_gives_the_kernels_before_the_cut():
    text = "".join(lines(FP16)[:6])
    whole = kernels.parse(text.splitlines())
    for end in range(0, len(text), 7):
        found = kernels.parse(text[:end].splitlines())
        sure = found[:-1]  # of the line that was cut, what is there may be read
        assert sure == whole[: len(sure)]
        assert len(found) <= len(whole)


@pytest.mark.parametrize(
    "line",
    [
        "Layer(CaskConvolution): conv1 + relu1, Tactic: 0x9a, input (Float[1,3,224,224]) -> out (Float[1,64,112,112])",
        "kernel=gemm name=conv1 in=[1,2] out=[3]",
        "Name: x, LayerType: , Inputs: [], Outputs: []",
        "Name: x, LayerType: gemm",
        ", LayerType: gemm, Inputs: [], Outputs: []",
        "Name: x, LayerType: a b, Inputs: [], Outputs: []",
    ],
)
def test_a_version_that_writes_otherwise_has_no_kernels_and_no_error(line):
    assert kernels.parse(["Layers:\n", line + "\n"] * 3) == []


def test_odd_shapes_and_types_are_unknown_and_not_wrong():
    text = (
        "Name: g, LayerType: gemm, Inputs: [ { Name: a, Dimensions: [x,99999999999999999999], Datatype: Posit }, "
        "{ Name: no sizes }, { Name: b, Dimensions: [], Datatype: Half }], Outputs: [ { Name: c, Dimensions: [4,4], "
        "Strides: [0,1], Datatype: FP8E4M3 }], TacticName: t, StreamId: many, Metadata: [ONNX Layer: a]b"
    )
    (found,) = kernels.parse([text])
    assert [tensor.dtype for tensor in found.inputs] == ["unknown", "unknown", "fp16"]
    assert [tensor.bytes for tensor in found.inputs] == [None, None, 2], "no sizes at all is one number"
    assert found.outputs[0].bytes == 4, "what a stride of 0 repeats is stored once"
    assert (found.activation_bytes, found.multiply_adds, found.stream, found.product_type) == (None, None, 0, "unknown")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=200), st.sampled_from(lines(FP16)), st.just("Layers:")), max_size=12),
       st.integers(0, 400), st.text(max_size=8))  # fmt: skip
def test_nothing_in_a_log_is_an_error(found, place, text):
    changed = [line[:place] + text + line[place:] for line in found]
    for kernel in kernels.parse(changed):
        assert kernel.kind
        assert kernel.multiply_adds is None or kernel.multiply_adds >= 0
        assert kernel.activation_bytes is None or kernel.activation_bytes >= 0
        assert kernel.weight_bytes is None or kernel.weight_bytes >= 0
        assert kernel.operands() is not None
    kernels.parse_json(json.dumps({"Layers": found}))


def test_very_many_lines_are_read_as_they_come():
    listed = lines(FP16)

    def log():
        for number in range(200_000):
            yield f"VERBOSE: Autotuning {number}: {{ Name: a, Dimensions: [1] }} -> Half(1,2), LayerTy\n"
        yield from listed

    tracemalloc.start()
    found = kernels.parse(log())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == kernels.parse(listed)
    assert most < 5_000_000, "bytes: the log isn't kept"


def test_a_line_with_very_many_tensors_is_read_in_linear_time_or_left_out():
    tensor = "{ Name: a, Dimensions: [1,8], Datatype: Half, Format: x }"
    head = "Name: k, LayerType: kgen, Inputs: [ "
    tail = "], Outputs: [], TacticName: t, StreamId: 0, Metadata: "
    (found,) = kernels.parse([head + ", ".join([tensor] * 10_000) + tail])
    assert len(found.inputs) == 10_000
    assert found.activation_bytes == 16, "one buffer"
    assert kernels.parse([head + ", ".join([tensor] * 30_000) + tail]) == [], "longer than any layer"
    assert kernels.parse([head + "{ Name: " * 30_000 + tail]) != []


def test_a_weight_on_the_left_that_serves_the_whole_batch():
    """As TensorRT-RTX lists `weight @ x` for sm_86."""
    kernel = Kernel(
        "g", "gemm", (half("x", 8, 96, 50),), (half("w", 1, 64, 96), half("alpha", 1)), (half("y", 8, 64, 50),)
    )
    assert kernel.multiply_adds == 8 * 64 * 96 * 50
    assert [tensor.name for tensor in kernel.operands()] == ["w", "x"]


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["gemm", "correlation", "kgen"])
def test_operands_of_any_rank(kind, rank):
    name = "_gemm_mha_v2_0" if kind == "kgen" else "k"
    tensor = half("x", *[4] * rank)
    kernel = Kernel(name, kind, (tensor, tensor), (half("w", *[4] * rank),), (half("y", *[4] * rank),))
    assert (kernel.multiply_adds is None) == (rank < 2)
    assert (kernel.product_type == "unknown") == (rank < 2)


def test_of_several_lists_the_last_counts():
    first, second = lines("tensorrt-rtx-1.7.1-sm75-int8.txt"), lines("tensorrt-rtx-1.7.1-sm86-int8.txt")
    assert kernels.parse(first + second) == kernels.parse(second)
    assert kernels.parse([*second, "Layers:\n", "and then it crashed\n"]) == kernels.parse(second)


def test_slices_of_one_buffer_count_each_and_the_same_view_once():
    left = Tensor("b", (4, 8), (16, 1), "fp16")
    kernel = Kernel("k", "kgen", (left, left, Tensor("b", (4, 4), (16, 1), "fp16")), (), (half("o", 4, 8),))
    assert kernel.activation_bytes == 2 * (32 + 16 + 32)
    table = Kernel("k", "kgen", (half("x", 8, 56, 56),), (half("t", 1, 1, 56),), (half("y", 8, 56, 56),))
    assert table.weight_bytes == 2 * 56, "a table that is broadcast counts its own size"
