"""The steps of the GPU check that run other programs, with stand-ins of cmake, hemf-predict and docker on the PATH."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import hemf_export
from hemf_export.gpu_check import engines, material, programs, step
from hemf_export.gpu_check.step import Place, Result

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("t4")]

# What the stand-in of docker is asked for, and does: DOCKER says which images are built, and where the engine is.
DOCKER = """
import json, os, shutil, sys
told, words = json.loads(os.environ["DOCKER"]), sys.argv[1:]
with open(told["log"], "a") as log:
    log.write(" ".join(words) + "\\n")
if words[-2:] == ["config", "--images"]:
    print("hemf-export:1", "hemf-triton:1", sep="\\n")
elif words[:2] == ["image", "inspect"]:
    sys.exit(words[2] not in told["images"])
elif "trt" in words:
    for source, name in told["engine"].items():
        shutil.copy(source, os.path.join(told["work"], name))
elif "self-test" in words and told.get("broken"):
    print("error: the GPU is gone", file=sys.stderr)
    sys.exit(3)
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder of the PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def engine(place: Place, t4: pytest.MonkeyPatch) -> Path:
    """The engine that the steps share."""
    return engines.engine(place, material.half(place, material.trained(place)), "fp16", "tensorrt")


def tool(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)


def outcomes(result: Result) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


@pytest.mark.parametrize(("off", "outcome"), [(0.0, "passed"), (0.1, "failed")])
def test_cpp(place, engine, tools, off, outcome):
    folder = material.images(place) / "test"
    predictions = hemf_export.predict(engine, folder)
    answer = predictions.to_dict()
    for one in answer["predictions"]:
        one["probabilities"] = {name: share + off for name, share in one["probabilities"].items()}
    tool(tools, "c++", "")
    tool(tools, "cmake", "")
    tool(place.folder / "cpp" / "examples" / "predict", "hemf-predict", f"print({json.dumps(answer)!r})")
    result = step.run("cpp", programs.cpp, place)
    assert (outcomes(result), result.reason) == ({"hemf-predict": outcome}, "")


def test_cpp_without_a_compiler(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = step.run("cpp", programs.cpp, place)
    assert (result.outcome, result.reason) == ("can't run", "cmake and c++ are not installed.")


def test_a_program_that_fails_is_told_with_its_last_lines(place, tools):
    tool(tools, "c++", "")
    tool(tools, "cmake", "import sys; sys.exit('Could NOT find CUDA')")
    result = step.run("cpp", programs.cpp, place)
    assert (result.outcome, result.reason) == ("failed", "cmake ended with 1: Could NOT find CUDA")


def test_two_processes_train(place):
    assert step.run("two-gpus", programs.two_gpus, place).reason == "It takes two GPUs; PyTorch sees 1."
    result = step.run("two-gpus", programs.train, place)
    assert set(outcomes(result).values()) == {"passed"}, result.checks
    assert outcomes(result)["two as one"] == "passed"


@pytest.fixture
def docker(
    place: Place, engine: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:  # fmt: skip
    files = engine.parent.glob("fp16.engine*")
    tool(tools, "docker", DOCKER)
    told: dict[str, object] = {
        "log": str(tmp_path / "log"), "work": str(place.folder), "images": ["hemf-export:1", "hemf-triton:1"],
        "engine": {str(path): path.name.replace("fp16", "container") for path in files},
    }  # fmt: skip
    monkeypatch.setenv("DOCKER", json.dumps(told))
    return told


def test_containers(place, docker, monkeypatch):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    graph = material.half(place, material.trained(place))
    monkeypatch.setattr(hemf_export, "predict_served", lambda url, images, model: hemf_export.predict(graph, images))
    result = step.run("containers", programs.containers, place)
    assert result.reason == ""
    assert set(outcomes(result).values()) == {"passed"}, result.checks
    assert len(result.checks) == 5
    said = Path(str(docker["log"])).read_text()
    assert f"--volume {place.folder}:/check --workdir /check build trt small/best.fp16.onnx -o container.engine" in said
    assert said.splitlines()[-1].endswith("down"), "the server is stopped"


def test_containers_that_are_not_built(place, docker, monkeypatch):
    monkeypatch.setenv("DOCKER", json.dumps({**docker, "images": ["hemf-export:1"]}))
    result = step.run("containers", programs.containers, place)
    assert result.outcome == "can't run"
    assert result.reason.startswith("The images hemf-triton:1 are not built. Build them first: docker compose")


def test_a_container_that_fails(place, docker, monkeypatch):
    monkeypatch.setenv("DOCKER", json.dumps({**docker, "broken": True}))
    result = step.run("containers", programs.containers, place)
    assert result.checks[0].found == "docker ended with 3: error: the GPU is gone"
