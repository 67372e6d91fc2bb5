"""Steps of the GPU check: the C++ program, several GPUs, and containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import hemf_export
from hemf_export.engines import backends
from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.gpu_check import engines, material
from hemf_export.gpu_check.step import Findings, Place

_SOURCES = Path(hemf_export.__file__).parent / "engines" / "cpp"
_INSIDE = "/check"  # the shared folder in the container
_SAME_LOSS = 1e-3  # share by which rounding may change the loss of an epoch
_TOLERANCE = 1e-3  # of probabilities: decoding, resizing and the engine are the same in both


def cpp(place: Place, findings: Findings) -> None:
    """Build hemf-predict, and compare its probabilities on images with Python's."""
    backends.load("tensorrt")  # raises the error for a missing package
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        raise MissingCapabilityError(f"{' and '.join(missing)} are not installed.")
    built = place.folder / "cpp"
    _program("cmake", "-S", _SOURCES, "-B", built, "-DHEMF_ENGINE=tensorrt")
    _program("cmake", "--build", built, "--parallel", "--target", "hemf-predict")
    path = engines.engine(place, material.half(place, material.trained(place)), "fp16", "tensorrt")
    folder = material.images(place) / "test"
    expected = hemf_export.predict(path, folder)
    answer = json.loads(_program(built / "examples" / "predict" / "hemf-predict", path, folder, "--json"))
    found = {Path(one["image"]).resolve(): one for one in answer["predictions"]}
    largest = max(
        abs(share - found[Path(one.path).resolve()]["probabilities"][name])
        for one in expected for name, share in zip(expected.classes, one.probabilities, strict=True)
    )  # fmt: skip
    findings.facts["largest_difference"] = largest
    agree = all(found[Path(one.path).resolve()]["class"] == one.label for one in expected)
    findings.check(
        "hemf-predict", agree and largest <= _TOLERANCE,
        f"{len(expected)} images, largest difference of a probability {largest:.1e}",
    )  # fmt: skip


def two_gpus(place: Place, findings: Findings) -> None:
    """Train with torchrun on two GPUs, with and without BatchNorm over both, and on one."""
    count = torch.cuda.device_count() if place.device == "cuda" else 1
    if count < 2:
        raise MissingCapabilityError(f"It takes two GPUs; PyTorch sees {count}.")
    train(place, findings)


def train(place: Place, findings: Findings) -> None:
    """Train with two processes; see `two_gpus`."""
    options = material.network(place, "hemf-tiny")
    variant = [] if options["variant"] is None else ["--variant", options["variant"]]
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    losses: dict[str, float] = {}
    runs: dict[str, tuple[tuple[str, ...], list[str]]] = {
        "one process": ((), []), "two processes": (two, []), "with SyncBatchNorm": (two, ["--sync-batch-norm"]),
    }  # fmt: skip
    for name, (launcher, extra) in runs.items():
        with findings.attempt(name):
            output = place.folder / "torchrun" / name.replace(" ", "-")
            _program(
                sys.executable, *launcher, "-m", "hemf_export", "train", material.images(place), "-o", output,
                "--model", options["model"], "--image-size", options["image_size"], "--device", place.device,
                "--amp", "off", "--epochs", 2, "--batch-size", 8, "--learning-rate", "1e-3", "--workers", 0,
                *variant, *extra,
            )  # fmt: skip
            lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            losses[name] = json.loads(lines[0])["loss"]
            findings.check(name, True, f"loss {losses[name]:.4f} in the first epoch")
    if {"one process", "with SyncBatchNorm"} <= set(losses):
        apart = abs(losses["with SyncBatchNorm"] / losses["one process"] - 1)
        findings.check("two as one", apart < _SAME_LOSS, f"losses differ by {apart:.1e}")


def containers(place: Place, findings: Findings) -> None:
    """Build an engine in the container, serve it by Triton's tensorrt backend, and compare the answers."""
    compose = material.PROJECT / "docker" / "compose.yaml"
    if not compose.is_file():
        raise MissingCapabilityError("docker/compose.yaml is not here: run this in the project's folder.")
    if shutil.which("docker") is None:
        raise MissingCapabilityError("Docker is not installed.")
    images = _program("docker", *_compose(compose), "config", "--images").split()
    absent = [image for image in images if _fails("docker", "image", "inspect", image)]
    if absent:
        raise MissingCapabilityError(
            f"The images {', '.join(absent)} are not built.",
            "Build them first: docker compose --env-file docker/versions.env -f docker/compose.yaml build",
        )
    source = material.trained(place)
    graph = material.half(place, source)
    work = place.folder.resolve()
    mounted = ("--volume", f"{work}:{_INSIDE}", "--workdir", _INSIDE)
    run = ("docker", *_compose(compose), "run", "--rm", *mounted, "build")
    with findings.attempt("build in the container"):
        _program(*run, "trt", graph.resolve().relative_to(work), "-o", "container.engine", "--images", "images",
                 "--backend", "tensorrt", "--target", material.target(place))  # fmt: skip
        _program(*run, "self-test", "container.engine")
        findings.check("build in the container", True, "built, and its self-test passed")
    _served(place, compose, work, graph, findings)


def _served(place: Place, compose: Path, work: Path, graph: Path, findings: Findings) -> None:
    """Serve the engine, the graph and a TensorRT-RTX engine by Triton's backends, and compare the classes."""
    repository = work / "models"
    models: dict[str, tuple[Callable[[], Path], dict[str, Any]]] = {
        "tensorrt backend": (lambda: work / "container.engine", {}),
        "onnxruntime backend": (lambda: graph, {"backend": "onnxruntime", "device": "gpu"}),
        "Python backend, ONNX file": (lambda: graph, {"backend": "python", "device": "gpu"}),
        "Python backend, TensorRT-RTX": (
            lambda: engines.engine(place, graph, "rtx", "tensorrt-rtx"),
            {"backend": "python"},
        ),
    }
    written: dict[str, str] = {}
    for number, (name, (make, settings)) in enumerate(models.items()):
        with findings.attempt(name):
            hemf_export.triton_repository(make(), repository, name=f"model-{number}", **settings)
            written[name] = f"model-{number}"
    environment = {"MODELS": str(repository)}
    images = material.images(place) / "test"
    expected = hemf_export.predict(graph, images)
    try:
        _program("docker", *_compose(compose), "up", "--detach", "--wait", "triton", more=environment)
        for name, model in written.items():
            with findings.attempt(name):
                served = hemf_export.predict_served("grpc://localhost:8001", images, model=model)
                same = sum(one.label == other.label for one, other in zip(served, expected, strict=True))
                found = f"{same} of {len(expected)} images get the class that the graph gives"
                findings.check(name, same == len(expected), found)
    finally:
        _program("docker", *_compose(compose), "down", more=environment)


def _compose(file: Path) -> tuple[str, ...]:
    return "compose", "--env-file", str(file.with_name("versions.env")), "-f", str(file)


def _program(*command: Any, more: dict[str, str] | None = None) -> str:
    """Run a program; return its output, or raise an error with the end of its messages."""
    words: Sequence[str] = [str(word) for word in command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(more or {})}
    done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it gives no reason"]
        raise HemfError(f"{words[0]} ended with {done.returncode}: {' '.join(lines[-3:])}")
    return done.stdout


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode != 0
