"""Every name of TensorRT that the code uses is in the bindings: a change of them is seen without a GPU.

`tensorrt_names.json` lists the members of the classes that are used, as the published wheels have them (TensorRT
10.16.1.11 and 11.4.0.106, TensorRT-RTX 1.7.1.116, CPython 3.11).
"""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

import engines
from tests.engines import fake_flavours

NAMES: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
# What the code's variables and attributes hold, by module. A name of TensorRT that is used through another one has to
# be added here.
VARIABLES = {
    "builder": {
        "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
        "optimization": "IOptimizationProfile", "tensor": "ITensor", "error": "ParserError", "cache": "ITimingCache",
        "layer": "ILayer",
    },
    "messages": {},
    "runtime": {"runtime": "Runtime", "refitter": "Refitter", "weights": "OnnxParserRefitter"},
    "plan_probe": {"runtime": "Runtime"},
    "runner": {
        "config": "IRuntimeConfig", "_engine": "ICudaEngine", "engine": "ICudaEngine", "_cache": "IRuntimeCache",
        "strategy": "CudaGraphStrategy",
    },
    "execution": {"context": "IExecutionContext"},
    "tensors": {"engine": "ICudaEngine"},
    "layers": {"engine": "ICudaEngine", "inspector": "EngineInspector"},
    "layer_times": {"engine": "ICudaEngine", "context": "IExecutionContext"},
}  # fmt: skip
ONLY_RTX = {
    ("", "ComputeCapability"), ("ComputeCapability", "__members__"),
    ("IBuilderConfig", "num_compute_capabilities"), ("IBuilderConfig", "set_compute_capability"),
    ("", "EngineValidity"), ("EngineValidity", "INVALID"), ("EngineValidity", "SUBOPTIMAL"),
    ("Runtime", "get_engine_validity"), ("", "CudaGraphStrategy"), ("CudaGraphStrategy", "DISABLED"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"), ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"), ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeCache", "serialize"), ("IRuntimeCache", "deserialize"),
}  # fmt: skip
OURS = {("ICudaEngine", "engine")}  # `loaded.engine`: the attribute of ours that holds it


def used(source: str, variables: dict[str, str]) -> set[tuple[str, str]]:
    """(class, member) of all that is reached through `trt` or a known variable; ("", class) of the module's own."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        holder = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
        if holder in ("trt", "_trt"):
            found.add(("", node.attr))
        elif holder in variables:
            found.add((variables[holder], node.attr))
        elif isinstance(owner, ast.Attribute) and ast.unparse(owner.value) in ("trt", "self._trt"):
            found.add((owner.attr, node.attr))
    return found


def in_module(name: str) -> set[tuple[str, str]]:
    return used((Path(engines.__file__).parent / f"{name}.py").read_text(), VARIABLES[name])


USED = set().union(*(in_module(name) for name in VARIABLES))


def test_every_module_that_has_a_binding_in_its_hands_is_looked_at():
    for path in Path(engines.__file__).parent.glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "trt" not in names or path.stem in VARIABLES, path


def test_the_code_uses_what_this_test_can_see():
    assert ("Builder", "build_serialized_network") in USED
    assert ("", "OnnxParser") in USED
    assert ("MemoryPoolType", "WORKSPACE") in USED
    assert ("IExecutionContext", "execute_async_v3") in USED
    assert ("EngineInspector", "get_engine_information") in USED
    assert len(USED) > 60


@pytest.mark.parametrize("version", NAMES)
def test_every_name_exists(version):
    known = NAMES[version]
    for owner, member in sorted(USED):
        if (owner, member) in ONLY_RTX and "rtx" not in version:
            continue
        if not owner:
            assert member in known, f"{version} has no {member}"
        elif member not in ("__init__", "__members__"):
            assert member in known[owner], f"{version}: {owner} has no {member}"


@pytest.mark.parametrize("version", NAMES)
def test_methods_that_tensorrt_calls_back_are_those_it_has(version):
    for name, methods in (
        ("IProgressMonitor", ("phase_start", "step_complete", "phase_finish")),
        ("ILogger", ("log",)),
        ("IProfiler", ("report_layer_time",)),
    ):
        assert set(methods) <= set(NAMES[version][name])


def test_a_name_that_is_gone_would_be_seen():
    gone = used(
        "trt.BuilderFlag.FP16\nconfig.int8_calibrator\ntrt.IInt8EntropyCalibrator2", {"config": "IBuilderConfig"}
    )
    assert gone == {
        ("", "BuilderFlag"), ("BuilderFlag", "FP16"), ("IBuilderConfig", "int8_calibrator"),
        ("", "IInt8EntropyCalibrator2"),
    }  # fmt: skip
    assert "int8_calibrator" not in NAMES["tensorrt 11.4"]["IBuilderConfig"]


@pytest.mark.parametrize("version", ["tensorrt 10.16", "tensorrt-rtx 1.7"])
def test_the_fake_has_no_name_that_tensorrt_lacks(version):
    """Else code could pass its tests with calls that no TensorRT takes."""
    flavour, known = version.split()[0], NAMES[version]
    allowed = {("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")} | (ONLY_RTX if flavour == "tensorrt" else set())
    seen = 0
    for owner, value in vars(fake_flavours.flavour(flavour)).items():
        if isinstance(value, type) and owner in known:
            members = getattr(value, "__members__", dir(value))
            found = {name for name in members if not name.startswith("_") and (owner, name) not in allowed}
            assert found <= set(known[owner]), owner
            seen += len(found)
    assert seen > 60


def test_the_recorded_names_are_those_of_the_installed_binding():
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    if not module.__version__.startswith("1.7."):
        pytest.skip("recorded from 1.7")
    assert importlib.import_module("tensorrt_rtx") is module
    for name, members in NAMES["tensorrt-rtx 1.7"].items():
        assert set(members) <= set(dir(getattr(module, name))), name
