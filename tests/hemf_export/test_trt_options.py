"""The options of `trt` and the fields that they fill agree; a manifest's rebuild command is one that `trt` takes."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemf_export.cli.commands.trt import command
from hemf_export.cli.flags import in_flags
from hemf_export.engines import preflight
from hemf_export.engines.options import HIGHEST_LEVEL, BatchProfile, BuildOptions
from hemf_export.files.errors import UsageError

# What `trt` takes apart from how to build, by the names in its own signature; `reading` is made of two options.
TRT = "hemf-export trt "
OWN = {name for name, one in inspect.signature(command.callback).parameters.items() if one.kind != one.VAR_KEYWORD}
OWN = OWN - {"reading"} | {"weights", "image_size"}
profiles = st.lists(st.integers(1, 600), min_size=3, max_size=3).map(lambda sizes: BatchProfile(*sorted(sizes)))
build_options = st.builds(
    BuildOptions,
    profiles=st.lists(profiles, min_size=1, max_size=3).map(tuple),
    workspace_mib=st.integers(1, 1 << 20),
    optimization_level=st.none() | st.integers(0, HIGHEST_LEVEL),
    hardware_compatible=st.none() | st.booleans(),
    version_compatible=st.booleans(),
    stripped=st.booleans(),
    timing_cache=st.booleans(),
)


def parsed(line: str) -> dict[str, Any]:
    """What the parser makes of the words after `hemf-export trt`."""
    return command.make_context("trt", shlex.split(line)).params


def options(values: dict[str, Any]) -> BuildOptions:
    """As the command makes them: without --batch, the default's profiles."""
    given_profiles = tuple(BatchProfile.parse(text) for text in values["batch"]) or BuildOptions().profiles
    return BuildOptions(profiles=given_profiles, **{name: value for name, value in values.items() if name not in OWN})


def test_every_field_has_its_option_and_every_other_option_its_parameter():
    fields = {field.name for field in dataclasses.fields(BuildOptions)}
    assert {parameter.name for parameter in command.params} == OWN | (fields - {"profiles"})
    assert "batch" in OWN


def test_defaults_agree():
    assert options(parsed("m.onnx --fp16")) == BuildOptions()
    assert BuildOptions().changed() == {}


@given(build_options)
@settings(max_examples=100, deadline=None)
def test_flags_come_back_through_the_parser_and_the_manifest(told):
    settings = "".join(f", {name}={value!r}" for name, value in told.changed().items())
    assert options(parsed(in_flags(f"`build_engine('m.onnx', precision='fp16'{settings})`").removeprefix(TRT))) == told
    assert BuildOptions.from_dict(told.to_dict()) == told


@given(build_options, st.sampled_from(["tensorrt", "tensorrt-rtx"]), st.sampled_from(["fp32", "fp16", "int8"]))
@settings(max_examples=30, deadline=None)
def test_the_command_that_rebuilds_builds_the_same(told, backend, precision):
    manifest = {"parent": "m.onnx", "target": "l4", "backend": backend, "precision": precision, "build": told.to_dict()}
    line = in_flags(preflight.rebuild_call(manifest)).removeprefix(TRT)
    values = parsed(line)
    assert options(values) == told
    assert (str(values["model"]), values["target"], values["backend"]) == ("m.onnx", "l4", backend)
    assert (values["fp32"], values["fp16"], values["int8"]) == (precision == "fp32", False, False)


@pytest.mark.parametrize("build", [None, {}, {"profiles": [3]}, {"profiles": ["1"], "new": 1}, [1]])
def test_the_manifest_of_another_version_still_gives_a_command(build):
    line = in_flags(preflight.rebuild_call({"parent": "m.onnx", "target": "t4", "build": build}))
    assert line == "hemf-export trt m.onnx --target t4"


def test_without_a_manifest_the_command_has_a_place_for_the_model():
    assert in_flags(preflight.rebuild_call({})) == "hemf-export trt MODEL.onnx --fp16 --target t4"


@pytest.mark.parametrize(
    "changes", [{"profiles": ()}, {"workspace_mib": 0}, {"optimization_level": -1}, {"optimization_level": 6}]
)
def test_values_out_of_range_are_wrong_usage(changes):
    with pytest.raises(UsageError):
        BuildOptions(**changes)


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--workspace 0", 2, "x>=1"),
        ("--optimization-level 6", 2, "0<=x<=5"),
        ("--version-compatible", 2, "no version-compatible engines"),
        ("--strip-weights", 4, "can't strip weights without a GPU"),
        ("--no-hardware-compatible", 2, "never for one model of GPU"),
    ],
)
def test_what_cannot_be_built_is_told_before_any_work(tmp_path, run_cli, monkeypatch, flag, code, message):
    (tmp_path / "m.onnx").touch()
    monkeypatch.setattr("hemf_export.engines.backends.gpu_capability", lambda: None)
    monkeypatch.setattr("hemf_export.precision.build_engine.provide", lambda *_: pytest.fail("it was begun"))
    found, _, err = run_cli("trt", tmp_path / "m.onnx", "--fp16", *flag.split())
    assert (found, message in err) == (code, True), err


def test_an_engine_that_later_versions_run_keeps_its_weights():
    """The lean runtime, which runs it, can't refit weights: NVIDIA's article on version compatibility, TensorRT 8.6."""
    for one in (BuildOptions(version_compatible=True), BuildOptions(stripped=True)):
        one.require("tensorrt", (7, 5))
    with pytest.raises(UsageError, match="`version_compatible` and `stripped` exclude each other"):
        BuildOptions(version_compatible=True, stripped=True).require("tensorrt", (7, 5))
