"""Steps of the GPU check: engines of TensorRT and of TensorRT-RTX, built and run on this GPU."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import hemf_export
from hemf_export.engines import backends
from hemf_export.files import child
from hemf_export.files.errors import HemfError
from hemf_export.gpu_check import material
from hemf_export.gpu_check.step import Findings, Place
from hemf_export.models.model_file import EngineFile, OnnxFile

_PROFILES = ("1:1:1", "2:8:8")
_SIZES = (1, 8, 3, 8, 1)


def engine(place: Place, graph: Path, name: str, backend: Literal["tensorrt", "tensorrt-rtx"], **options: Any) -> Path:
    """Build an engine of a graph for this GPU, unless an earlier step has."""
    path = graph.with_name(f"{name}.engine")
    if not path.is_file():
        backends.load(backend)  # raises the error for a missing package
        settings: dict[str, Any] = {"batches": _PROFILES, "images": material.images(place), **options}
        hemf_export.build_engine(graph, path, target=material.target(place), backend=backend, **settings)
    return path


def build(place: Place, findings: Findings) -> None:
    """Build FP16 and INT8 engines with two profiles, and one a second time, with the kernel timings of the first."""
    source = material.trained(place)
    seconds = {}
    for name, graph in (("fp16", material.half(place, source)), ("int8", material.quantized(place, source))):
        with findings.attempt(name):
            started = time.perf_counter()
            path = engine(place, graph, name, "tensorrt")
            seconds[name] = time.perf_counter() - started
            findings.check(name, True, f"{path.stat().st_size / 1e6:.1f} MB in {seconds[name]:.0f} s")
    if "fp16" in seconds:
        with findings.attempt("timing cache"):
            started = time.perf_counter()
            engine(place, material.half(place, source), "fp16-again", "tensorrt")
            again = time.perf_counter() - started
            faster = f"{again:.0f} s with the timings of the first build, which took {seconds['fp16']:.0f} s"
            findings.check("timing cache", again < seconds["fp16"], faster)
    findings.facts["seconds_to_build"] = seconds


def run(place: Place, findings: Findings) -> None:
    """Run engines at several sizes, with and without captured graphs; list their layers; test them as a bundle."""
    source = material.trained(place)
    packed = []
    for name, graph in (("fp16", material.half(place, source)), ("int8", material.quantized(place, source))):
        with findings.attempt(f"{name}: runs"):
            path = engine(place, graph, name, "tensorrt")
            packed.append(path)
            _runs(name, graph, path, findings)
        with findings.attempt(f"{name}: layers"):
            _layers(name, engine(place, graph, name, "tensorrt"), findings)
    if packed:
        with findings.attempt("strict self-test of a bundle"):
            bundle = hemf_export.bundle(packed, place.folder / "engines.tar.zst", cpp=False, triton=False, force=True)
            tested = hemf_export.self_test(bundle, strict=True)
            findings.check("strict self-test of a bundle", tested.passed, tested.verdict)


def options(place: Place, findings: Findings) -> None:
    """Build and run engines without weights, and for later versions of TensorRT."""
    source = material.trained(place)
    graph = material.half(place, source)
    for name, settings in (("stripped", {"stripped": True}), ("version-compatible", {"version_compatible": True})):
        with findings.attempt(name):
            path = engine(place, graph, name, "tensorrt", **settings)
            tested = hemf_export.self_test(path)
            findings.check(name, tested.passed, f"{path.stat().st_size / 1e6:.1f} MB, {tested.verdict}")


def latency(place: Place, findings: Findings) -> None:
    """Time the FP16 engine of hemf-base against PyTorch, and against this GPU's published rates."""
    source = material.untrained(place)
    graph = material.half(place, source)
    path = engine(place, graph, "base", "tensorrt", batches=("1:8:8",))
    kinds = ("eager", "amp", "compile-amp", "engine", "engine-no-graph")
    outcome = hemf_export.benchmark(
        [source, path], batches=[1, 8], seconds=10, runners=kinds, transfers="out", memory=False
    )
    medians = {(one["runner"], one["batch"]): one["latency_ms"]["p50"] for one in outcome.values["timings"]}
    shares = [one["share_of_floor"] for one in outcome.values["timings"] if one["runner"] == "engine"]
    findings.facts = {
        "median_ms": [{"runner": runner, "batch": batch, "ms": ms} for (runner, batch), ms in medians.items()],
        "share_of_floor": shares, "not_run": outcome.values["not_run"],
    }  # fmt: skip
    if outcome.problem is not None:
        raise HemfError(outcome.problem)
    for batch in (1, 8):
        own = medians[("engine", batch)]
        for kind in ("eager", "amp", "compile-amp"):
            name = f"faster than {kind}, batch {batch}"
            if (kind, batch) in medians:
                ratio = medians[(kind, batch)] / own
                findings.check(name, ratio > 1, f"{own:.2f} ms, {ratio:.2f} times as fast")
            else:
                findings.cannot(name, f"{kind} was not timed")


def rtx(place: Place, findings: Findings) -> None:
    """Run an engine of TensorRT-RTX in two processes: the second finds the kernels that the first compiled."""
    graph = material.half(place, material.trained(place))
    path = engine(place, graph, "rtx", "tensorrt-rtx")
    seconds = []
    for name in ("first start", "second start"):
        with findings.attempt(name):
            seconds.append(_self_test_in_a_process(path))
            findings.check(name, True, f"{seconds[-1]:.1f} s")
    findings.facts["seconds"] = seconds
    if len(seconds) == 2:
        first, second = seconds
        findings.check("the second start is faster", second < first, f"{first / second:.1f} times as fast")


def _runs(name: str, graph: Path, path: Path, findings: Findings) -> None:
    """Compare logits with and without captured graphs, and with the graph in ONNX Runtime on the CPU."""
    reference = OnnxFile.open(graph)
    batches = [_batch(path, count) for count in _SIZES]
    found: dict[bool, list[NDArray[np.float32]]] = {}
    for graphs in (True, False):
        with EngineFile.open(path).runner(cuda_graphs=graphs) as runner:
            found[graphs] = [runner.infer(batch) for batch in batches]
            notes = runner.notes
    equal = all(np.array_equal(one, other) for one, other in zip(*found.values(), strict=True))
    findings.check(f"{name}: graphs equal to the bit", equal, "equal" if equal else "logits differ")
    on_cpu = reference.runner(emulated=True)
    expected = [on_cpu.infer(batch) for batch in batches]
    largest = max(float(np.abs(one - other).max()) for one, other in zip(found[True], expected, strict=True))
    agree = all((one.argmax(1) == other.argmax(1)).all() for one, other in zip(found[True], expected, strict=True))
    findings.facts[f"{name}_largest_difference"] = largest
    sizes = ", ".join(map(str, _SIZES))
    noted = "".join(f"; {note}" for note in notes)
    findings.check(f"{name}: runs", agree, f"sizes {sizes}: largest logit difference from the CPU {largest:.1e}{noted}")


def _batch(path: Path, count: int) -> NDArray[np.generic]:
    takes = EngineFile.open(path).description.input
    pixels = np.random.default_rng(count).integers(0, 256, (count, takes.height, takes.width, 3), dtype=np.uint8)
    return takes.network(pixels)


def _layers(name: str, path: Path, findings: Findings) -> None:
    kinds = hemf_export.inspect(path).values["layers"] or {}
    layers = sum(sum(precisions.values()) for precisions in kinds.values())
    unknown = sum(precisions.get("unknown", 0) for precisions in kinds.values())
    found = f"{layers} layers, {unknown} of unknown precision"
    findings.check(f"{name}: layers", layers > 0 and unknown == 0, found)


def _self_test_in_a_process(path: Path) -> float:
    """Run the command for `self_test` in a process of its own; return its seconds from start to end."""
    started = time.perf_counter()
    command = child.command("hemf_export", "self-test", str(path))
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it gives no reason"]
        raise HemfError(f"The process ended with {done.returncode}: {lines[-1]}")
    return time.perf_counter() - started
