"""Plans become engines: stripped ones with their own weights, code for the host only where it is known, refusals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.calibration.session import Session
from hemf_export.cli.flags import in_flags
from hemf_export.engines import preflight, runtime
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_network import ILogger
from tests.engines.fake_records import records
from tests.engines.real_engines import script, tiny_graph

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32)


@pytest.fixture(autouse=True)
def tensorrt(tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    with fake.installed(packages) as patch:
        yield patch


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return fake.classifier(tmp_path / "m.onnx")


def deserialize(path: Path, *, trust: bool = False) -> runtime.Loaded:
    return runtime.deserialize(path, trust=trust, here=fake.MACHINE)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_stripped_engine_computes_with_the_weights_of_its_graph(graph, backend):
    path = fake.engine(graph, backend=backend, stripped=True)
    with fake.load(path) as runner:
        np.testing.assert_allclose(runner.infer(IMAGES), Session(graph).logits(IMAGES), rtol=1e-5, atol=1e-6)


def test_a_stripped_engine_takes_no_other_weights_than_its_own(graph):
    path = fake.engine(graph, stripped=True)
    fake.classifier(graph, weight=1.001)
    with pytest.raises(BadInputError, match=r"m\.onnx is not the file that m\.t4\.engine was built from"):
        deserialize(path)
    graph.unlink()
    with pytest.raises(BadInputError, match=r"has no weights, and m\.onnx is not beside it") as refused:
        deserialize(path)
    assert "in its folder" in str(refused.value.hint)


def test_weights_that_tensorrt_does_not_take_are_refused_with_its_reason(graph):
    """The manifest was edited: it names the file of another network."""
    other = tiny_graph(graph.with_name("other.onnx"))
    named = {"parent": other.name, "parent_sha256": artifacts.sha256(other)}
    path = fake.engine(graph, stripped=True, changes=named)
    with pytest.raises(BadInputError, match=r"can't take the weights .*: The weights are of another network"):
        deserialize(path)


@pytest.mark.parametrize("parent", ["../m.onnx", "folder/m.onnx", "/m.onnx", "", None, 7])
def test_the_graph_of_a_stripped_engine_is_only_looked_for_beside_it(graph, parent):
    path = fake.engine(graph, stripped=True, changes={"parent": parent})
    folder = graph.parent / "folder"
    folder.mkdir()
    graph.rename(folder / "m.onnx")
    with pytest.raises(BadInputError, match="has no weights"):
        deserialize(path)


def test_a_stripped_plan_without_a_manifest_has_no_weights(graph, tensorrt):
    tensorrt.setattr(runtime, "_try_in_a_child", lambda *_: None)
    with (
        fake.load(fake.engine(graph, stripped=True, manifest=False), trust=True) as runner,
        pytest.raises(HemfError, match="The engine has no weights"),
    ):
        runner.infer(IMAGES)


def test_code_for_the_host_is_allowed_to_plans_that_a_manifest_calls_version_compatible_alone(graph, tensorrt):
    path = fake.engine(graph, version_compatible=True)
    deserialize(path)
    deserialize(fake.engine(graph, name="plain.engine"))
    assert [allowed for _, allowed in records.deserialized] == [True, False]
    tensorrt.setattr(runtime, "_try_in_a_child", lambda *_: None)
    artifacts.manifest_path(path).unlink()
    with pytest.raises(BadInputError, match="code for the host, which is not allowed"):
        deserialize(path, trust=True)
    assert records.deserialized[-1][1] is False


def test_what_tensorrt_rtx_calls_invalid_is_exit_4_with_the_command_that_rebuilds(graph, tensorrt):
    path = fake.engine(graph, backend="tensorrt-rtx")
    tensorrt.setenv("FAKE_TENSORRT", "invalid")
    with pytest.raises(MissingCapabilityError, match=r"can't run here \(diagnostics 32\)") as refused:
        deserialize(path)
    assert refused.value.exit_code == 4
    assert (
        in_flags(str(refused.value.hint))
        == "Build it again here: hemf-export trt m.onnx --target t4 --backend tensorrt-rtx --batch 1:2:4"
    )
    assert records.deserialized == []


def test_what_tensorrt_rtx_calls_suboptimal_runs_and_is_told(graph, tensorrt):
    path = fake.engine(graph, backend="tensorrt-rtx")
    assert fake.load(path).notes == []
    tensorrt.setenv("FAKE_TENSORRT", "suboptimal")
    with fake.load(path) as runner:
        assert [in_flags(note) for note in runner.notes] == [
            f"TensorRT-RTX says that {path.name} is not the best for this GPU; build it again here: "
            "hemf-export trt m.onnx --target t4 --backend tensorrt-rtx --batch 1:2:4"
        ]
        assert len(runner.infer(IMAGES)) == 3


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_that_tensorrt_does_not_take_is_refused_with_its_reason(graph, tensorrt, backend):
    path = fake.engine(graph, backend=backend)
    tensorrt.setenv("FAKE_TENSORRT", "no-engine")
    with pytest.raises(BadInputError, match=rf"^{backend} [\d.]+ can't load {path}: .*magicTag failed") as refused:
        deserialize(path)
    assert f"hemf-export trt m.onnx --target t4 --backend {backend}" in in_flags(str(refused.value.hint))


def test_the_bytes_that_are_loaded_are_those_that_were_hashed(graph, tensorrt):
    path = fake.engine(graph)
    look = preflight.look

    def slow(*arguments, **options):
        looked = look(*arguments, **options)
        path.write_bytes(path.read_bytes() + b"x")
        return looked

    tensorrt.setattr(preflight, "look", slow)
    with pytest.raises(BadInputError, match="was changed while it was read"):
        deserialize(path)
    assert records.deserialized == []


def test_a_trusted_plan_without_a_manifest_is_loaded_after_a_child_survived_it(graph, tensorrt):
    ended: list[int] = []
    run = runtime.subprocess.run

    def watched(*arguments, **options):
        done = run(*arguments, **options)
        ended.append(done.returncode)
        assert not records.deserialized, "not yet in this process"
        return done

    tensorrt.setattr(runtime.subprocess, "run", watched)
    deserialize(fake.engine(graph, manifest=False), trust=True)
    assert ended == [0]
    assert len(records.deserialized) == 1


@pytest.mark.parametrize(
    ("code", "timeout_s", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, rf"crashed \(signal {int(signal.SIGSEGV)}\)"),
        ("import time; time.sleep(60)", 0.5, "doesn't come to an end"),
    ],
)
def test_a_trusted_plan_that_kills_or_stops_the_child_is_refused(graph, tmp_path, tensorrt, code, timeout_s, message):
    path = fake.engine(graph, manifest=False)
    tensorrt.setattr(sys, "executable", str(script(tmp_path, code)))
    tensorrt.setattr(runtime, "_PROBE_TIMEOUT_S", timeout_s)
    with pytest.raises(BadInputError, match=message):
        deserialize(path, trust=True)
    assert records.deserialized == []


def test_memory_that_runs_out_at_loading_is_no_bad_plan(tmp_path, tensorrt):
    path = fake.engine(fake.classifier(tmp_path / "m.onnx"))
    message = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"

    def fails(self: Any, data: bytes) -> None:
        self._logger.log(ILogger.Severity.ERROR, message)

    tensorrt.setattr(fake.fake_flavours.flavour("tensorrt").Runtime, "deserialize_cuda_engine", fails)
    with pytest.raises(HemfError, match="out of memory") as caught:
        runtime.deserialize(path, here=fake.MACHINE)
    assert not isinstance(caught.value, BadInputError)
    assert "Free memory of the GPU" in str(caught.value.hint)
