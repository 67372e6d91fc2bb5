"""Every name of TensorRT that the code uses is in its bindings: mypy holds the code against stubs of them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from mypy import api

from tests.conftest import PROJECT
from tests.engines import fake_flavours
from tests.typings import generate


def members(stub: str) -> dict[str, set[str]]:
    """The members of each class in a stub file."""
    found: dict[str, set[str]] = {}
    for node in ast.parse((generate.STUBS / stub).read_text()).body:
        if isinstance(node, ast.ClassDef):
            names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            annotated = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
            names |= {target.id for target in annotated if isinstance(target, ast.Name)}
            found[node.name] = names - {"__init__", "__members__"}
    return found


STUBS = {"tensorrt": members("tensorrt_bindings.pyi"), "tensorrt-rtx": members("tensorrt_rtx_bindings.pyi")}


def test_the_stubs_are_those_of_the_published_bindings(shared):
    for name, text in generate.stubs(shared / "tensorrt-api").items():
        assert (generate.STUBS / name).read_text() == text, "python -m tests.typings.generate ../shared/tensorrt-api"


def test_they_say_what_the_installed_binding_has():
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    if not module.__version__.startswith("1.7."):
        pytest.skip("they are of 1.7")
    assert importlib.import_module("tensorrt_rtx") is module
    for name, known in STUBS["tensorrt-rtx"].items():
        if name != "Bindings":
            assert known <= set(dir(getattr(module, name))), name


@pytest.mark.extended
def test_a_name_that_is_gone_is_an_error(tmp_path: Path):
    (tmp_path / "user.py").write_text(
        "from tensorrt_bindings import Bindings, Builder, Runtime\n"
        "def use(trt: Bindings, builder: Builder, runtime: Runtime) -> None:\n"
        "    trt.BuilderFlag.TF32, trt.BuilderFlag.FP16\n"
        "    builder.create_network(1).get_input(0).shape\n"
        "    builder.create_builder_config().int8_calibrator\n"
        "    trt.ComputeCapability\n"
        "    runtime.get_engine_validity\n"
    )
    config = ("--config-file", str(PROJECT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)  # where the folder of the stubs is named from
        out, _, code = api.run([*config, str(tmp_path / "user.py")])
    assert code == 1
    assert [line.split(":")[1] for line in out.splitlines() if "error:" in line] == ["3", "5", "6", "7"], out


def test_methods_that_tensorrt_calls_back_are_those_it_has():
    """The classes that have them come from a variable, where mypy compares no methods."""
    for name, methods in (
        ("IProgressMonitor", ("phase_start", "step_complete", "phase_finish")),
        ("ILogger", ("log",)),
        ("IProfiler", ("report_layer_time",)),
    ):
        assert set(methods) <= STUBS["tensorrt"][name]


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_the_fake_has_no_name_that_tensorrt_lacks(flavour):
    """Else code could pass its tests with calls that no TensorRT takes."""
    known, seen = STUBS[flavour], 0
    only_rtx = {name: STUBS["tensorrt-rtx"][name] - known.get(name, set()) for name in STUBS["tensorrt-rtx"]}
    for owner, value in vars(fake_flavours.flavour(flavour)).items():
        if isinstance(value, type) and owner in known:
            found = {name for name in getattr(value, "__members__", dir(value)) if not name.startswith("_")}
            # Both flavours of the fake share their classes.
            allowed = known[owner] | only_rtx[owner] | {"EXPLICIT_BATCH"}
            assert found <= allowed, owner
            seen += len(found)
    assert seen > 60
