"""Builds in the real child process: what is written, what is kept, how they fail.

TensorRT-RTX builds where it can. The timing cache of TensorRT, which builds on a GPU alone (TensorRT-RTX has none), and
a builder without memory are a fake's.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hemf_export.engines import backends, build, build_process, caches, golden, targets
from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import Silent
from tests.conftest import RecordedTask, Recorder
from tests.engines import fake_tensorrt as fake
from tests.engines import real_engines
from tests.engines.fake_network import VERSIONS, read_plan
from tests.engines.real_engines import OPTIONS, script, tiny_graph


@pytest.fixture
def work(tmp_path: Path, monkeypatch) -> Path:
    """A folder of its own to build in, with empty caches beside it."""
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# With TensorRT-RTX


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")


def test_an_engine_lies_beside_its_manifest_and_nothing_else(real_engine):
    manifest = artifacts.read_manifest(real_engine)
    assert manifest["classes"] == ["a"]
    assert manifest.items() >= {
        "kind": "engine", "backend": "tensorrt-rtx", "backend_version": backends.installed_version("tensorrt-rtx"),
        "target": "t4", "compute_capability": "sm_75", "parent": "m.onnx",
        "parent_sha256": artifacts.sha256(real_engine.with_name("m.onnx")),
        "network_layers": {"MATRIX_MULTIPLY HALF": 1}, "timing_cache": None,
    }.items()  # fmt: skip
    assert manifest["tensors"][0] == {"name": "x", "mode": "input", "type": "HALF", "shape": [-1, 16]}
    assert manifest["build_peak_memory_bytes"] > 1 << 20
    assert BuildOptions.from_dict(manifest["build"]) == OPTIONS
    assert sorted(path.name for path in real_engine.parent.iterdir()) == ["m.engine", "m.engine.json", "m.onnx"]


def test_golden_images_lie_beside_the_engine_and_go_with_it(rtx, work):
    images = Golden(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 3), np.float32), "noise", 0.1)
    graph, progress = tiny_graph(work / "m.onnx"), Recorder()
    options = BuildOptions(profiles=(BatchProfile(2, 2, 2),))
    done = real_engines.make(graph, work / "m.engine", golden=images, options=options, progress=progress)
    assert golden.read(done.path, done.manifest) is not None
    assert done.manifest == artifacts.read_manifest(done.path)
    assert progress.tasks == ["Building the engine", "Starting tensorrt-rtx"]
    assert progress.moves[0][1] == 0, "the builder's own phases"
    assert not (work.parent / "cache" / "timing").exists(), "it times no kernels"
    again = real_engines.make(graph, work / "m.engine", options=options)
    assert golden.read(again.path, again.manifest) is None
    assert not golden.place(again.path).exists(), "images that are no engine's"
    assert not artifacts.log_path(done.path).exists(), "a build that ends well leaves no log"


def test_a_failed_build_tells_its_reason_and_leaves_all_as_it_was(rtx, work, real_engine):
    """TensorRT-RTX has no float32 products on Turing."""
    graph, output = tiny_graph(work / "m.onnx", np.float32), work / "m.engine"
    for path in (real_engine, artifacts.manifest_path(real_engine)):
        (work / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    with pytest.raises(BadInputError, match=f"tensorrt-rtx can't build {graph} for t4: .*the_node") as refused:
        real_engines.make(graph, output)
    assert refused.value.exit_code == 1
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before
    log = artifacts.log_path(output)
    assert "`precision='fp16'`" in str(refused.value.hint)
    assert f"The builder's whole log: {log}" in str(refused.value.hint)
    said = log.read_text()
    assert "VERBOSE: " in said
    assert "FP32 GEMM is not supported" in said


def test_an_operator_that_tensorrt_does_not_know_is_named(rtx, work):
    path = tiny_graph(work / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="Frobnicate") as refused:
        real_engines.make(path, work / "m.engine")
    assert "another opset" in str(refused.value.hint)


def test_a_builder_that_crashes_takes_only_its_process_with_it(work, monkeypatch):
    monkeypatch.setattr(
        sys, "executable", str(script(work.parent, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    )
    with pytest.raises(BadInputError, match="crashed \\(signal 11\\)"):
        real_engines.make(tiny_graph(work / "m.onnx"), work / "m.engine")
    assert not (work / "m.engine").exists()


def test_what_the_child_process_can_tell_better_is_not_explained_by_the_graph(work, monkeypatch):
    told = json.dumps({"error": "Can't write the plan: No space left on device.", "hint": "Nothing was changed."})
    monkeypatch.setattr(sys, "executable", str(script(work.parent, f"print({told!r}); raise SystemExit(1)")))
    with pytest.raises(BadInputError, match="No space left on device") as refused:
        real_engines.make(tiny_graph(work / "m.onnx"), work / "m.engine")
    assert refused.value.hint == "Nothing was changed."


# With a fake TensorRT, on a machine with a T4


@pytest.fixture
def graph(work, tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.setattr(backends, "gpu_name", lambda: fake.GPU)
    packages = tmp_path / "packages"
    packages.mkdir()
    with fake.installed(packages):
        yield fake.classifier(work / "m.onnx")


def make(graph: Path, name: str = "m.t4.engine", **changes: Any) -> build.Engine:
    settings = {"target": targets.find("t4"), "options": OPTIONS, "fields": {}, **changes}
    return build.build_engine(graph, graph.with_name(name), backend="tensorrt", **settings)


def values(engine: build.Engine) -> dict[str, Any]:
    """What the builder was told, and what it found."""
    return read_plan(engine.path.read_bytes()).values


def timing_place() -> Path:
    return caches.timing_cache_path(artifacts.cache_folder(), "tensorrt", VERSIONS["tensorrt"], fake.GPU)


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


def test_a_cache_that_cannot_be_written_stops_no_build(graph, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "file" / "cache"))
    assert make(graph).path.is_file()
    assert (tmp_path / "file").read_bytes() == b""


def test_what_tensorrt_alone_has_reaches_it(graph):
    """Version compatibility, plans without weights and hardware compatibility are the GPU's TensorRT's."""
    options = BuildOptions(hardware_compatible=True, stripped=True, timing_cache=False)
    done = make(graph, options=options)
    found = values(done)
    assert set(found["flags"]) == {"STRIP_PLAN", "REFIT_IDENTICAL"}
    assert found["hardware"] == "SAME_COMPUTE_CAPABILITY"
    assert read_plan(done.path.read_bytes()).graph == b"", "no weights"
    assert BuildOptions.from_dict(done.manifest["build"]) == options
    assert done.manifest["timing_cache"] is None
    assert not timing_place().exists()
    lasting = make(graph, options=BuildOptions(version_compatible=True))
    assert values(lasting)["flags"] == ["VERSION_COMPATIBLE"]
    assert lasting.manifest["version_compatible"] is True


@pytest.mark.parametrize(
    ("target", "option", "compatible"),
    [
        ("t4", None, False),  # the GPU that builds is the target
        ("sm_75", None, True),
        ("rtx-20", None, True),
        ("t4", True, True),
        ("t4", False, False),
        ("sm_75", False, False),
    ],
)
def test_a_plan_is_for_all_gpus_of_its_capability_where_the_one_that_builds_is_not_the_target(
    graph, target, option, compatible
):
    done = make(graph, target=targets.find(target), options=BuildOptions(hardware_compatible=option))
    assert values(done)["hardware"] == ("SAME_COMPUTE_CAPABILITY" if compatible else "NONE")
    assert done.manifest["hardware_compatible"] is compatible
    assert done.manifest["build"]["hardware_compatible"] is option, "so that the same call builds the same"


def test_a_plan_for_this_model_alone_is_not_named_after_another(graph):
    with pytest.raises(UsageError, match=r"runs on the model that builds it alone, Tesla T4, which isn't rtx-20"):
        make(graph, target=targets.find("rtx-20"), options=BuildOptions(hardware_compatible=False))


def test_a_builder_without_memory_is_told_with_the_way_out(graph, monkeypatch):
    """Memory that runs out on purpose is a fake's."""
    monkeypatch.setenv("FAKE_TENSORRT", "no-memory")
    with pytest.raises(BadInputError, match=f"tensorrt can't build {graph} for t4: .*OutOfMemory") as refused:
        make(graph)
    assert "`workspace_mib`" in str(refused.value.hint)
    assert "WARNING: A fake warning." in artifacts.log_path(graph.with_name("m.t4.engine")).read_text()
    assert not timing_place().exists()


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("Could not find any implementation for node conv due to insufficient workspace.", "give it more"),
        ("Requested amount of GPU memory (17179869184 bytes) could not be allocated.", "a smaller `workspace_mib`"),
        ("Error Code 1: Cuda Runtime (out of memory)", "a smaller `workspace_mib`"),
        ("Error Code 10: Internal Error (Could not find any implementation for node conv.)", "another opset"),
    ],
)
def test_what_a_builder_lacks_is_what_it_is_to_be_given(reason, remedy):
    assert remedy in build_process._remedy(reason)
