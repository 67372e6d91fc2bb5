"""The census of an engine's kernels: sums by hand, the model of its time, what a manifest keeps, and real builds."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemf_export.engines import backends, build, build_process, census, kernels, targets
from hemf_export.engines.census import Census, Rates
from hemf_export.engines.kernels import Kernel, Tensor
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.targets import Chip
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError
from tests.engines.test_kernels import FP16, lines

# A rate of 1e9 of everything but INT8: operations and bytes are nanoseconds.
SLOW = Chip("slow", 1, bandwidth_gb_s=1, tflops_fp32=1e-3, tflops_fp16=1e-3, tops_int8=4e-3, source="made up")
WHERE = {"backend": "tensorrt-rtx", "version": "1.7.1", "sm": "sm_75"}


def tensor(name: str, *shape: int, dtype: str = "fp16") -> Tensor:
    return Tensor(name, shape, (), dtype)


def product(dtype: str = "fp16", *, batch: int = 2, node: str = "mm") -> Kernel:
    """(batch, 8) times (8, 4), a weight."""
    rows, weight = tensor("x", batch, 8, dtype=dtype), tensor("w", 8, 4, dtype=dtype)
    return Kernel("g", "gemm", (rows,), (weight,), (tensor("y", batch, 4),), "", 0, (node,))


def addition(*, batch: int = 2) -> Kernel:
    return Kernel("a", "kgen", (tensor("y", batch, 4),), (), (tensor("z", batch, 4),))


def test_sums_and_times_counted_by_hand():
    found = census.of([product(), addition()], **WHERE, batch=2)
    assert (found.launches, found.activation_bytes, found.weight_bytes) == (2, 2 * (16 + 8) + 2 * (8 + 8), 2 * 32)
    assert (found.products, found.fused_attentions, found.multiply_adds) == ({"fp16": 1}, 0, {"fp16": 64})
    compute, memory, added = 2 * 64, 48 + 64, 32
    times = np.array(found.kernel_times_s(SLOW))
    assert times == pytest.approx(np.array([(compute, memory), (0, added)]) * 1e-9)
    launches = 2 * 2.5e-3
    assert found.model_ms(SLOW) == pytest.approx((max(compute, memory) + added) * 1e-6 + launches)
    assert found.model_ms(SLOW, 4) == pytest.approx((2 * compute + 2 * added) * 1e-6 + launches), "weights stay"
    rates = Rates(0.5, 0.25, 1e-3, overlapped=False)
    assert found.model_ms(SLOW, rates=rates) == pytest.approx((2 * compute + 4 * (memory + added)) * 1e-6 + 2)


def test_int8_has_its_own_rate_and_is_counted_apart():
    found = census.of([product("int8"), product()], **WHERE, batch=2)
    assert found.products == {"int8": 1, "fp16": 1}
    times = found.kernel_times_s(SLOW)
    assert times is not None
    assert times[0][0] == pytest.approx(times[1][0] / 4)
    assert set(found.by_kind) == {"gemm in int8", "gemm in fp16"}


def test_open_sizes_are_open_and_a_twin_has_them():
    own, twin = [product(batch=-1), addition(batch=-1), addition(batch=-1)], [product(), addition()]
    found = census.of(own, **WHERE, batch=None)
    assert (found.launches, found.activation_bytes, found.multiply_adds) == (3, None, None)
    assert found.model_ms(SLOW) is None
    assert found.weight_bytes == 64, "weights depend on no batch"
    assert not census.is_complete(own)
    both = census.of(own, **WHERE, batch=2, twin=twin)
    assert (both.launches, both.activation_bytes) == (3, 80), "kernels are the engine's own"
    assert both.summary()["sizes_from"] == {"twin_at_batch": 2, "twin_kernels": 2}
    model = both.model_ms(SLOW)
    assert model is not None
    assert model > 3 * 2.5e-3, "launches are the engine's own"


def test_blocks_are_those_of_the_nodes_and_else_of_what_is_read():
    names = {"mm": "ELF 1", "scale": census.OTHER, "other": census.OTHER}
    mixed = Kernel("m", "kgen", (tensor("q", 1),), (), (tensor("r", 1),), "", 0, ("scale", "other", "mm"))
    found = census.of([product(), addition(), mixed], **WHERE, batch=2).with_blocks(names)
    assert [kernel.block for kernel in found.kernels] == ["ELF 1", "ELF 1", "ELF 1"]
    assert found.by_block["ELF 1"].kernels == 3
    assert found.by_block["ELF 1"].products == {"fp16": 1}
    assert census.of([addition()], **WHERE, batch=2).by_block[census.OTHER].kernels == 1


def test_kernels_of_the_first_profile_alone_are_launched():
    listed = kernels.parse(lines("tensorrt-rtx-1.7.1-sm75-two-profiles.txt"))
    assert census.of(listed, **WHERE, batch=None).launches == 3


def test_parts_add_up_to_the_whole():
    found = census.of(kernels.parse(lines(FP16)), **WHERE, batch=1)
    for parts in (found.by_block, found.by_kind):
        assert sum(part.kernels for part in parts.values()) == found.launches
        assert sum(part.bytes or 0 for part in parts.values()) == found.moved_bytes
        assert sum(part.fused_attentions for part in parts.values()) == found.fused_attentions == 1
        assert sum(part.products.get("fp16", 0) for part in parts.values()) == found.products["fp16"] == 7


def test_a_manifest_keeps_all_of_it():
    found = census.of(kernels.parse(lines(FP16)), **WHERE, batch=1, twin=[product(node="é\x1f")])
    found = found.with_blocks({"mm": "ELF 1"})
    values = json.loads(json.dumps(found.to_dict()))
    assert Census.from_dict(values) == found


def broken_lists() -> list[Any]:
    good = census.of([product()], **WHERE, batch=2).to_dict()

    def packed(value: Any) -> str:
        return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()

    cut = good["lists"]["engine"][:-8]
    odd = ["no base64", packed([[1, 2, 3]]), packed({"a": 1}), packed([["n", "k", "t", "s", [], None, [], [], [[1]]]])]
    bomb = base64.b64encode(zlib.compress(b"[" + b" " * (1 << 26))).decode()
    found: list[Any] = [{}, {"lists": None}, {**good, "batch": "many"}]
    for lists in (cut, *odd, bomb, None, 3):
        value = copy.deepcopy(good)
        value["lists"]["engine"] = lists
        found.append(value)
    return found


@pytest.mark.parametrize("values", broken_lists(), ids=range(11))
def test_a_census_that_is_none_is_told(values):
    with pytest.raises(BadInputError, match="can't be read"):
        Census.from_dict(values)


# Real builds


def quantized(path: Path, *, batch: int | str = "n", channels: int = 32) -> Path:
    """Relu, then a convolution 3×3 with Q/DQ before both its factors, in float16."""
    rng = np.random.default_rng(0)
    stored = {
        "wq": rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8),
        "ws": np.full(channels, 0.01, np.float16), "wz": np.zeros(channels, np.int8),
        "s": np.array(0.02, np.float16), "z": np.array(0, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], "weights", axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    ]
    shape = [batch, channels, 16, 16]
    graph = helper.make_graph(
        nodes, "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.fixture
def rtx(tmp_path, monkeypatch):
    """TensorRT-RTX, with a cache of its own."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))


def test_a_census_is_taken_without_an_engine_and_kept(rtx, tmp_path, monkeypatch):
    graph = quantized(tmp_path / "g.onnx")
    found = {
        sm: build.take_census(graph, targets.find(sm), batch=4, blocks={"conv": "here"}) for sm in ("sm_75", "sm_86")
    }
    assert found["sm_75"].products == {"fp16": 1}, "no int8 convolution is there for sm_75"
    assert found["sm_86"].products == {"int8": 1}
    for one in found.values():
        assert one.batch == 4
        assert one.twin is None
        (conv,) = (kernel for kernel in one.kernels if kernel.is_product)
        assert conv.block == "here"
        assert conv.multiply_adds == 4 * 32 * 16 * 16 * 32 * 9
    assert not list(tmp_path.glob("*.engine*"))
    monkeypatch.setattr(build_process, "run", lambda *_, **__: pytest.fail("it was counted before"))
    assert (
        build.take_census(graph.read_bytes(), targets.find("sm_75"), batch=4, blocks={"conv": "here"}) == found["sm_75"]
    )
    for place in (tmp_path / "cache" / "census").iterdir():
        place.write_bytes(b"{}")
    with pytest.raises(pytest.fail.Exception, match="counted before"):
        build.take_census(graph, targets.find("sm_75"), batch=4)


def test_an_engine_for_a_range_has_its_sizes_from_a_twin_that_is_not_shipped(rtx, tmp_path):
    graph, output = quantized(tmp_path / "g.onnx"), tmp_path / "g.engine"
    target = targets.find("sm_75")

    def made(*profiles: BatchProfile) -> Census:
        options = BuildOptions(profiles=profiles)
        done = build.build_engine(graph, output, backend="tensorrt-rtx", target=target, options=options, fields={})
        assert done.notes == () or "with other bytes" in " ".join(done.notes)
        assert done.census == Census.from_dict(artifacts.read_manifest(output)["census"])
        return done.census

    dynamic, fixed = made(BatchProfile(1, 4, 8)), made(BatchProfile(4, 4, 4))
    assert dynamic.twin is not None
    assert (dynamic.batch, fixed.batch, fixed.twin) == (4, 4, None)
    assert dynamic.twin == fixed.kernels
    assert dynamic.moved_bytes == fixed.moved_bytes
    assert any(-1 in tensor.shape for kernel in dynamic.kernels for tensor in kernel.inputs)
    two = made(BatchProfile(1, 4, 8), BatchProfile(16, 16, 16))
    assert two.launches == dynamic.launches


def test_a_twin_that_can_not_be_built_stops_no_build(rtx, tmp_path, monkeypatch):
    def crash(*_: Any, **__: Any) -> Census:
        raise BadInputError("tensorrt-rtx crashed (signal 11)")

    monkeypatch.setattr(build, "take_census", crash)
    done = build.build_engine(
        quantized(tmp_path / "g.onnx"), tmp_path / "g.engine", backend="tensorrt-rtx", target=targets.find("sm_75"),
        options=BuildOptions(profiles=(BatchProfile(1, 4, 8),)), fields={},
    )  # fmt: skip
    assert done.census is not None
    assert (done.census.batch, done.census.twin, done.census.products) == (None, None, {"fp16": 1})


def test_a_judge_that_refuses_leaves_everything_as_it_was(rtx, tmp_path):
    graph, output = quantized(tmp_path / "g.onnx", batch=2), tmp_path / "g.engine"
    output.write_bytes(b"an earlier engine")

    def refuse(found: Census | None) -> dict[str, Any]:
        assert found is not None
        assert found.batch == 2
        raise CheckFailedError("not this one")

    with pytest.raises(CheckFailedError, match="not this one"):
        build.build_engine(
            graph, output, backend="tensorrt-rtx", target=targets.find("sm_75"), options=BuildOptions(), fields={},
            judge=refuse,
        )  # fmt: skip
    assert output.read_bytes() == b"an earlier engine"
    assert not artifacts.manifest_path(output).exists()


def test_the_version_that_a_census_is_kept_by_is_the_builders(rtx):
    assert backends.installed_version("tensorrt-rtx") == backends.load("tensorrt-rtx").version
