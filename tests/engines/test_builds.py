"""Builds in the real child process, by a fake TensorRT: what reaches the builder, what is kept, how they fail."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.engines import backends, build, caches, golden, targets
from hemf_export.engines.batches import BatchProfile
from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import Silent
from tests.conftest import RecordedTask, Recorder
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_network import VERSIONS, read_plan
from tests.engines.test_engines import script

PROFILES = (BatchProfile(1, 2, 4),)


@pytest.fixture(autouse=True)
def tensorrt(tmp_path, monkeypatch):
    """A machine with a T4 and both flavours, whose caches are empty."""
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backends, "gpu_name", lambda: fake.GPU)
    packages = tmp_path / "packages"
    packages.mkdir()
    with fake.installed(packages):
        yield


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """In a folder of its own."""
    (tmp_path / "work").mkdir()
    return fake.classifier(tmp_path / "work" / "m.onnx")


def make(graph: Path, name: str = "m.t4.engine", *, backend: Any = "tensorrt", **changes: Any) -> build.Engine:
    settings = {"target": targets.find("t4"), "options": BuildOptions(profiles=PROFILES), "fields": {}, **changes}
    return build.build_engine(graph, graph.with_name(name), backend=backend, **settings)


def values(engine: build.Engine) -> dict[str, Any]:
    """What the builder was told, and what it found."""
    return read_plan(engine.path.read_bytes()).values


def timing_place() -> Path:
    return caches.timing_place(artifacts.cache_folder(), "tensorrt", VERSIONS["tensorrt"], fake.GPU)


def kept_times() -> dict[str, Any]:
    data, damaged = caches.read(timing_place())
    assert damaged is None
    return json.loads(data)


def other_bytes(engine: build.Engine) -> list[str]:
    return [note for note in engine.notes if "with other bytes" in note]


def test_kernel_times_are_kept_for_the_next_build_and_other_bytes_are_told(graph):
    progress = Recorder()
    first = make(graph, fields={"classes": ["a"]}, progress=progress)
    assert (first.manifest["timing_cache"], values(first)["hits"]) == ("begun", 0)
    assert first.notes == ("A fake warning.",), "once, however often it was said"
    assert first.manifest["classes"] == ["a"]
    assert first.manifest["built_on"] == fake.GPU
    assert first.manifest["tensors"][0] == {
        "name": "images", "mode": "input", "type": "FLOAT", "shape": [-1, 3, 8, 8],
    }  # fmt: skip
    assert first.manifest["network_layers"] == {"CAST FLOAT": 1, "MATRIX_MULTIPLY FLOAT": 1, "REDUCE FLOAT": 1}
    assert first.manifest == artifacts.read_manifest(first.path)
    assert progress.moves[0] == ("Building", 0, 5)
    assert progress.moves[-1] == ("Building", 5, 5)
    assert sorted(path.name for path in graph.parent.iterdir()) == ["m.onnx", "m.t4.engine", "m.t4.engine.json"]
    second = make(graph)
    assert (second.manifest["timing_cache"], values(second)["hits"]) == ("used", values(second)["kernels"])
    assert len(other_bytes(second)) == 1
    assert first.manifest["sha256"][:16] in other_bytes(second)[0]
    assert second.manifest["sha256"][:16] in other_bytes(second)[0]
    third = make(graph)
    assert third.manifest["sha256"] == second.manifest["sha256"]
    assert not other_bytes(third)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"x" * 200, "is damaged; a new one is begun"),
        (json.dumps({"version": "10.0.0.6", "times": {}}).encode(), "TensorRT refuses the timing cache"),
        (b"no timing cache", "TensorRT refuses the timing cache"),
    ],
    ids=["damaged", "of another version", "not one"],
)
def test_a_timing_cache_that_is_of_no_use_is_warned_of_and_begun_anew(graph, content, warning):
    caches.write(timing_place(), content)
    if "damaged" in warning:
        timing_place().write_bytes(content)
    done = make(graph)
    assert any(warning in note for note in done.notes)
    assert any(warning in note for note in done.manifest["builder_warnings"])
    assert (done.manifest["timing_cache"], values(done)["hits"]) == ("begun", 0)
    assert kept_times()["version"] == VERSIONS["tensorrt"]
    assert len(kept_times()["times"]) == values(done)["kernels"]


def test_what_two_builds_at_once_measure_is_merged(graph, tmp_path, monkeypatch):
    other = fake.classifier(graph.with_name("raw.onnx"), raw=True)
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_TENSORRT_GATE", str(gate))
    both = threading.Barrier(2, gate.touch)

    class Waiting(RecordedTask):
        def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
            if completed == 0 and not gate.exists():
                both.wait(timeout=240)

    class Together(Silent):
        @contextmanager
        def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Waiting]:
            yield Waiting(Recorder())

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(make, one, f"{one.stem}.engine", progress=Together()) for one in (graph, other)]
        done = [one.result() for one in running]
    assert [(one.manifest["timing_cache"], values(one)["hits"]) for one in done] == [("begun", 0)] * 2
    assert len(kept_times()["times"]) > max(values(one)["kernels"] for one in done)
    assert {kernel.split(" ", 2)[2] for kernel in kept_times()["times"] if "cast" in kernel} == {
        "(-1, 3, 8, 8)", "(-1, 8, 8, 3)",
    }  # fmt: skip


def test_tensorrt_rtx_is_aimed_at_the_compute_capability_and_measures_nothing(graph):
    done = make(graph, backend="tensorrt-rtx")
    assert values(done)["capabilities"] == ["SM75"]
    assert values(done)["hardware"] == "NONE"
    assert done.manifest["timing_cache"] is None
    assert not timing_place().parent.exists()


def test_every_option_reaches_the_builder(graph):
    options = BuildOptions(
        profiles=(BatchProfile(1, 1, 1), BatchProfile(2, 4, 8)), workspace_mib=64, optimization_level=5,
        version_compatible=True, stripped=True, timing_cache=False,
    )  # fmt: skip
    for field in dataclasses.fields(BuildOptions):
        assert getattr(options, field.name) != getattr(BuildOptions(), field.name), "another than the default"
    done = make(graph, options=options)
    found = values(done)
    assert found["profiles"] == [[[size, 3, 8, 8] for size in sizes] for sizes in ((1, 1, 1), (2, 4, 8))]
    assert found["workspace"] == 64 << 20
    assert found["level"] == 5
    assert set(found["flags"]) == {"VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL", "DISABLE_TIMING_CACHE"}
    assert found["hardware"] == "SAME_COMPUTE_CAPABILITY"
    assert found["detailed"]
    assert read_plan(done.path.read_bytes()).graph == b"", "no weights"
    assert BuildOptions.from_dict(done.manifest["build"]) == options
    assert done.manifest["version_compatible"] is True
    assert done.manifest["timing_cache"] is None
    assert not timing_place().exists()


@pytest.mark.parametrize(
    ("option", "flags"),
    [
        ({}, set()),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
        ({"stripped": True}, {"STRIP_PLAN", "REFIT_IDENTICAL"}),
        ({"timing_cache": False}, {"DISABLE_TIMING_CACHE"}),
    ],
)
def test_a_flag_is_set_for_its_option_alone(graph, option, flags):
    """TF32, which has no more digits than float16, is off in all of them."""
    found = read_plan(fake.engine(graph, **option).read_bytes()).values
    assert set(found["flags"]) == flags
    assert (found["workspace"], found["level"]) == (2048 << 20, 3), "TensorRT's own level"


@pytest.mark.parametrize(
    ("failure", "reason", "way_out"),
    [
        ("no-plan", "Could not find any implementation for node the_node.", "another opset"),
        ("no-memory", "OutOfMemory", "`workspace_mib`"),
    ],
)
def test_a_failed_build_tells_its_reason_and_leaves_all_as_it_was(graph, monkeypatch, failure, reason, way_out):
    output = fake.engine(graph)
    before = {path.name: path.read_bytes() for path in graph.parent.iterdir()}
    monkeypatch.setenv("FAKE_TENSORRT", failure)
    with pytest.raises(BadInputError, match=f"tensorrt can't build {graph} for t4: .*{reason}") as refused:
        make(graph, output.name)
    assert refused.value.exit_code == 1
    assert {path.name: path.read_bytes() for path in graph.parent.iterdir()} == before
    log = artifacts.log_path(output)
    assert way_out in str(refused.value.hint)
    assert f"The builder's whole log: {log}" in str(refused.value.hint)
    said = log.read_text()
    assert "VERBOSE: Timing kernels\nWARNING: A fake warning.\n" in said
    assert f"ERROR: {reason}" in said or f"Error Code 2: {reason}" in said
    assert not timing_place().exists()


def test_golden_images_lie_beside_the_engine_and_go_with_it(graph):
    images = Golden(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 3), np.float32), "noise", 0.1)
    done = make(graph, golden=images)
    assert golden.read(done.path, done.manifest) is not None
    again = make(graph)
    assert golden.read(again.path, again.manifest) is None
    assert not golden.place(again.path).exists(), "images that are no engine's"
    assert not artifacts.log_path(done.path).exists(), "a build that ends well leaves no log"


def test_a_cache_that_cannot_be_written_stops_no_build(graph, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "file" / "cache"))
    assert make(graph).path.is_file()
    assert (tmp_path / "file").read_bytes() == b""


def test_what_the_child_process_can_tell_better_is_not_explained_by_the_graph(graph, tmp_path, monkeypatch):
    told = json.dumps({"error": "Can't write the plan: No space left on device.", "hint": "Nothing was changed."})
    monkeypatch.setattr(sys, "executable", str(script(tmp_path, f"print({told!r}); raise SystemExit(1)")))
    with pytest.raises(BadInputError, match="No space left on device") as refused:
        make(graph)
    assert refused.value.hint == "Nothing was changed."
