"""The real TensorRT-RTX builder, in this process: what reaches its configuration, and what it reports.

The configuration is read back from TensorRT. Its timing caches are left to `test_builds`: TensorRT-RTX has none.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hemf_export.engines import backends, builder, kernels, targets
from hemf_export.engines.backends import Backend
from hemf_export.engines.builder import BuildFailedError, BuildLog, Plan
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.files.errors import MissingCapabilityError
from tests.conftest import RecordedTask, Recorder
from tests.engines.real_engines import tiny_graph
from tests.engines.test_kernels import FP16, lines

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")


class Watched:
    """TensorRT-RTX, which keeps what its builder is given, as TensorRT has it when the build begins."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.profiles: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Builder(self, logger: Any) -> WatchedBuilder:  # noqa: N802
        return WatchedBuilder(trt.Builder(logger), self)


class WatchedBuilder:
    def __init__(self, real: Any, kept: Watched) -> None:
        self._real, self._kept = real, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_optimization_profile(self) -> Any:
        self._kept.profiles.append(self._real.create_optimization_profile())
        return self._kept.profiles[-1]

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        self._kept.given = {
            "strongly typed": network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
            "flags": flags(config),
            "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
            "level": config.builder_optimization_level,
            "verbosity": config.profiling_verbosity,
            "profiles": config.num_optimization_profiles,
            "capabilities": [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)],
        }
        return self._real.build_serialized_network(network, config)


def plan(
    graph: Path, options: BuildOptions | None = None, *, target: str = "t4", module: Any = trt,
    log: BuildLog | None = None, progress: Recorder | None = None,
) -> Plan:  # fmt: skip
    return builder.build_plan(
        Backend("tensorrt-rtx", module), graph, targets.find(target), options or BuildOptions(),
        log=log or BuildLog(io.StringIO()), task=RecordedTask(progress or Recorder()),
    )  # fmt: skip


def flags(config: Any) -> set[str]:
    return {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tiny_graph(tmp_path / "m.onnx")


def test_every_option_reaches_the_builder(graph):
    options = BuildOptions(
        profiles=(BatchProfile(1, 1, 1), BatchProfile(2, 4, 8)), workspace_mib=64, optimization_level=5,
        timing_cache=False,
    )  # fmt: skip
    others = {"hardware_compatible", "version_compatible", "stripped"}  # not of TensorRT-RTX without a GPU
    for field in dataclasses.fields(BuildOptions):
        if field.name not in others:
            assert getattr(options, field.name) != getattr(BuildOptions(), field.name), "another than the default"
    watched = Watched()
    built = plan(graph, options, module=watched)
    assert watched.given == {
        "strongly typed": True, "flags": set(), "workspace": 64 << 20, "level": 5,
        "verbosity": trt.ProfilingVerbosity.DETAILED, "profiles": 2, "capabilities": [trt.ComputeCapability.SM75],
    }  # fmt: skip
    shapes = [[tuple(shape) for shape in profile.get_shape("x")] for profile in watched.profiles]
    assert shapes == [[(1, 16)] * 3, [(2, 16), (4, 16), (8, 16)]]
    assert built.tensors == [
        {"name": "x", "mode": "input", "type": "HALF", "shape": [-1, 16]},
        {"name": "y", "mode": "output", "type": "HALF", "shape": [-1, 16]},
    ]
    assert built.layers == {"MATRIX_MULTIPLY HALF": 1}
    assert (built.timing_cache, built.timing_cache_used) == (None, False)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({}, set()),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
        ({"stripped": True}, {"STRIP_PLAN", "REFIT_IDENTICAL"}),
        # That flag would also "disable reuse of timing information across identical layers" of this very build.
        ({"timing_cache": False}, set()),
    ],
)
def test_a_flag_is_set_for_its_option_alone(option, expected):
    """TF32, which has no more digits than float16, is off in all of them."""
    config = trt.Builder(backends.load("tensorrt-rtx").logger(lambda *_: None)).create_builder_config()
    before = config.builder_optimization_level
    config.set_flag(trt.BuilderFlag.TF32)
    builder._configure(trt, config, BuildOptions(**option))
    assert flags(config) == expected
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 2048 << 20
    assert config.builder_optimization_level == before, "TensorRT's own"


def test_the_plan_is_for_the_targets_compute_capability(graph):
    plans = {sm: plan(graph, target=sm).data for sm in ("sm_75", "sm_89")}
    assert plans["sm_75"] != plans["sm_89"]
    with pytest.raises(MissingCapabilityError, match=r"builds for .*SM75, .*, not SM70") as refused:
        plan(graph, target="sm_70")
    assert "`backend='tensorrt'` on a GPU of sm_70" in str(refused.value.hint)


def test_a_graph_with_a_batch_of_its_own_needs_no_profile(graph):
    model = onnx.load(graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, graph)
    watched = Watched()
    built = plan(graph, module=watched)
    assert watched.given["profiles"] == 0
    assert built.tensors[0]["shape"] == [3, 16]


def test_phases_are_reported_from_their_start_to_their_end(graph):
    progress = Recorder()
    plan(graph, progress=progress)
    starts = {text for text, completed, _ in progress.moves if completed == 0}
    ends = {text for text, completed, total in progress.moves if completed == total}
    assert starts
    assert starts <= ends
    assert all(completed <= total for _, completed, total in progress.moves)


def test_a_parser_error_names_node_and_operator(graph):
    model = onnx.load(graph)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, graph)
    with pytest.raises(BuildFailedError, match=r"node the_node \(Frobnicate\): "):
        plan(graph)


def test_a_file_that_is_no_graph_has_the_parsers_reason(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(BuildFailedError, match=r"\w"):
        plan(tmp_path / "m.onnx")


def test_a_build_that_fails_has_the_builders_reason_and_a_whole_log(tmp_path):
    log = BuildLog(io.StringIO())
    with pytest.raises(BuildFailedError, match="FP32 GEMM is not supported") as failed:
        plan(tiny_graph(tmp_path / "m.onnx", np.float32), log=log)
    assert str(failed.value) == log.reason()
    assert isinstance(log.file, io.StringIO)
    lines = log.file.getvalue().splitlines()
    assert {line.partition(":")[0] for line in lines} >= {"ERROR", "INFO", "VERBOSE"}
    assert any(line.startswith("ERROR: ") and "FP32 GEMM" in line for line in lines)


def test_a_builds_log_keeps_the_lines_of_the_list_alone(tmp_path):
    listed = "".join(lines(FP16))
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        log = BuildLog(file)
        for number in range(1000):
            log.add("VERBOSE", f"Autotuning {number}\nand more of it")
        log.add("VERBOSE", listed)
        log.add("WARNING", "a warning")
    assert len(log.layers) == listed.count("LayerType") + 1
    assert kernels.parse(log.layers) == kernels.parse(lines(FP16))
    assert log.warnings == ["a warning"]
