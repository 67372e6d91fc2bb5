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

NAMES: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
# What the code's variables hold. A name of TensorRT that is used through another variable has to be added here.
VARIABLES = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "optimization": "IOptimizationProfile", "tensor": "ITensor", "error": "ParserError",
}  # fmt: skip
ONLY_RTX = {
    ("", "ComputeCapability"), ("ComputeCapability", "__members__"),
    ("IBuilderConfig", "num_compute_capabilities"), ("IBuilderConfig", "set_compute_capability"),
}  # fmt: skip


def used(source: str) -> set[tuple[str, str]]:
    """(class, member) of all that is reached through `trt` or a known variable; ("", class) of the module's own."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == "trt":
            found.add(("", node.attr))
        elif isinstance(node.value, ast.Name) and node.value.id in VARIABLES:
            found.add((VARIABLES[node.value.id], node.attr))
        elif isinstance(node.value, ast.Attribute) and ast.unparse(node.value.value) == "trt":
            found.add((node.value.attr, node.attr))
    return found


BUILDER = used((Path(engines.__file__).parent / "builder.py").read_text())


def test_the_code_uses_what_this_test_can_see():
    assert ("Builder", "build_serialized_network") in BUILDER
    assert ("", "OnnxParser") in BUILDER
    assert ("MemoryPoolType", "WORKSPACE") in BUILDER
    assert len(BUILDER) > 20


@pytest.mark.parametrize("version", NAMES)
def test_every_name_exists(version):
    known = NAMES[version]
    for owner, member in sorted(BUILDER):
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
    ):
        assert set(methods) <= set(NAMES[version][name])


def test_a_name_that_is_gone_would_be_seen():
    gone = used("trt.BuilderFlag.FP16\nconfig.int8_calibrator\ntrt.IInt8EntropyCalibrator2")
    assert gone == {
        ("", "BuilderFlag"), ("BuilderFlag", "FP16"), ("IBuilderConfig", "int8_calibrator"),
        ("", "IInt8EntropyCalibrator2"),
    }  # fmt: skip
    assert "int8_calibrator" not in NAMES["tensorrt 11.4"]["IBuilderConfig"]


def test_the_recorded_names_are_those_of_the_installed_binding():
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    if not module.__version__.startswith("1.7."):
        pytest.skip("recorded from 1.7")
    assert importlib.import_module("tensorrt_rtx") is module
    for name, members in NAMES["tensorrt-rtx 1.7"].items():
        assert set(members) <= set(dir(getattr(module, name))), name
