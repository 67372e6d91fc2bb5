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
from hemf_export.files import artifacts, child
from hemf_export.files.errors import HemfError
from hemf_export.gpu_check import material
from hemf_export.gpu_check.step import Findings, Place
from hemf_export.models.model_file import EngineFile, OnnxFile
from hemf_export.pages import census_text
from hemf_export.precision.bounds import MAX_PROBABILITY_DIFFERENCE, Bounds

_PROFILES = ("1:1:1", "2:8:8")
_SIZES = (1, 8, 3, 8, 1)


def engine(place: Place, graph: Path, name: str, backend: Literal["tensorrt", "tensorrt-rtx"], **options: Any) -> Path:
    """Build an engine of a graph for this GPU, unless an earlier step has."""
    path = graph.parent / f"{name}.engine"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        backends.load(backend)
        settings: dict[str, Any] = {"batches": _PROFILES, "images": material.images(place), **options}
        hemf_export.build_engine(graph, path, target=material.target(place), backend=backend, **settings)
    return path


def build(place: Place, findings: Findings) -> None:
    """Build FP16 and INT8 engines with two profiles, and one a second time, with the kernel timings of the first."""
    backends.load("tensorrt")  # raises the error for a missing package, before anything is made for it
    source = material.trained(place)
    seconds = {}
    for name, graph in (("fp16", material.half(place, source)), ("int8", material.quantized(place, source))):
        with findings.attempt(name):
            started = time.perf_counter()
            path = engine(place, graph, name, "tensorrt")
            seconds[name] = time.perf_counter() - started
            findings.check(name, True, f"{path.stat().st_size / 1e6:.1f} MB in {seconds[name]:.0f} s")
            census = census_text.of_manifest(artifacts.read_manifest(path) or {})
            kernels = "none listed" if census is None else census_text.line(census.summary())
            findings.check(f"{name}: kernels", census is not None, kernels)
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
    backends.load("tensorrt")
    source = material.trained(place)
    packed = []
    for name, graph in (("fp16", material.half(place, source)), ("int8", material.quantized(place, source))):
        with findings.attempt(f"{name}: runs"):
            path = engine(place, graph, name, "tensorrt")
            packed.append(path)
            _runs(name, graph, path, findings)
        with findings.attempt(f"{name}: layers"):
            _layers(name, engine(place, graph, name, "tensorrt"), findings)
    with findings.attempt("raw images"):
        _raw_images(place, findings)
    if packed:
        with findings.attempt("strict self-test of a bundle"):
            bundle = hemf_export.bundle(packed, place.folder / "engines.tar.zst", cpp=False, triton=False, force=True)
            tested = hemf_export.self_test(bundle, strict=True)
            findings.check("strict self-test of a bundle", tested.passed, tested.verdict)


def options(place: Place, findings: Findings) -> None:
    """Build and run engines without weights, for later versions of TensorRT, and of the fastest graph."""
    backends.load("tensorrt")
    source = material.trained(place)
    graph = material.half(place, source)
    for name, settings in (("stripped", {"stripped": True}), ("version-compatible", {"version_compatible": True})):
        with findings.attempt(name):
            path = engine(place, graph, name, "tensorrt", **settings)
            tested = hemf_export.self_test(path)
            findings.check(name, tested.passed, f"{path.stat().st_size / 1e6:.1f} MB, {tested.verdict}")
    with findings.attempt("tuned"):
        tuned = {"precision": "fp16", "tune": True}
        path = engine(place, material.exported(place, source), "tuned/best", "tensorrt", **tuned)
        tested = hemf_export.self_test(path)
        findings.check("tuned", tested.passed, tested.verdict)


def latency(place: Place, findings: Findings) -> None:
    """Time the FP16 engine of hemf-base against PyTorch, and against this GPU's published rates."""
    backends.load("tensorrt")
    source = material.untrained(place)
    graph = material.half(place, source)
    path = engine(place, graph, "base", "tensorrt", batches=("1:8:8",))
    kinds = ("eager", "amp", "compile-amp", "engine", "engine-no-graph")
    outcome = hemf_export.benchmark(
        [source, path], batches=[1, 8], seconds=10, runners=kinds, transfers="out", memory=False
    )
    timed = medians(outcome, "runner")
    shares = [one["share_of_floor"] for one in outcome.values["timings"] if one["runner"] == "engine"]
    findings.facts = {
        "median_ms": [{"runner": runner, "batch": batch, "ms": ms} for (runner, batch), ms in timed.items()],
        "share_of_floor": shares, "not_run": outcome.values["not_run"],
    }  # fmt: skip
    known = [share for share in shares if share is not None]
    if known:
        reached = " and ".join(f"{share:.0%}" for share in known)
        findings.check("no faster than the floor", max(known) <= 1, f"{reached} of the floor's speed")
    else:
        findings.cannot("no faster than the floor", "the rates of this GPU are not known")
    for batch in (1, 8):
        own = timed[("engine", batch)]
        for kind in ("eager", "amp", "compile-amp"):
            name = f"faster than {kind}, batch {batch}"
            if (kind, batch) in timed:
                ratio = timed[(kind, batch)] / own
                findings.check(name, ratio > 1, f"{own:.2f} ms, {ratio:.2f} times as fast")
            else:
                findings.cannot(name, f"{kind} was not timed")


def medians(outcome: hemf_export.Benchmark, kind: str) -> dict[tuple[str, int], float]:
    """Median milliseconds of a benchmark, by the value of `kind` and the batch size.

    Raises:
        HemfError: wrong logits, or an engine that was not timed.
    """
    lost = [f"{one['name']}: {one['reason']}" for one in outcome.values["not_run"] if one["name"].startswith("engine")]
    if outcome.problem is not None or lost:
        raise HemfError(outcome.problem or "; ".join(lost))
    return {(one[kind], one["batch"]): one["latency_ms"]["p50"] for one in outcome.values["timings"]}


def ship(place: Place, findings: Findings) -> None:
    """Take a checkpoint to a bundle with TensorRT, and test everything in it."""
    backends.load("tensorrt")
    shipment = hemf_export.ship(
        material.trained(place), material.images(place), place.folder / "shipped", target=material.target(place),
        backend="tensorrt", precision="fp16", batch="1:8:8", bench_seconds=3, triton=False, cpp=False,
    )  # fmt: skip
    findings.check("ship", True, f"{shipment.path.name}, {shipment.path.stat().st_size / 1e6:.0f} MB")
    tested = hemf_export.self_test(shipment.path, strict=True)
    findings.check("strict self-test", tested.passed, tested.verdict)


def rtx(place: Place, findings: Findings) -> None:
    """Run an engine of TensorRT-RTX in two processes: the second finds the kernels that the first compiled."""
    backends.load("tensorrt-rtx")
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
    bound = _bound(name, expected)
    findings.facts[f"{name}_largest_difference"] = largest
    sizes = ", ".join(map(str, _SIZES))
    noted = "".join(f"; {note}" for note in notes)
    said = f"sizes {sizes}: largest logit difference from the CPU {largest:.1e} (bound {bound:.1e}){noted}"
    findings.check(f"{name}: runs", largest <= bound, said)


def _bound(precision: str, expected: list[NDArray[np.float32]]) -> float:
    """Bound on the difference between an engine's logits and those of its graph on the CPU.

    Both round to float16, or to INT8, between operators, and sum in another order: FP16 may differ by what it may from
    float32, INT8 by a tenth of the largest logit.
    """
    largest = max(float(np.abs(logits).max()) for logits in expected)
    return Bounds().logit_bound(largest) if precision == "fp16" else 0.1 * largest


def _raw_images(place: Place, findings: Findings) -> None:
    """Compare an engine that resizes whole images itself with the checkpoint, for which Pillow resizes them."""
    source, folder = material.trained(place), material.images(place) / "test"
    side = material.SIDE
    graph = source.with_name("raw.onnx")
    hemf_export.export_onnx(source, graph, input="uint8", source_size=f"{side}x{side}")
    half = hemf_export.quantize(graph, output=source.with_name("raw.fp16.onnx"))
    path = engine(place, half.path, "raw", "tensorrt")
    pairs = list(zip(hemf_export.predict(path, folder), hemf_export.predict(source, folder), strict=True))
    largest = max(
        abs(own - other) for one, two in pairs for own, other in zip(one.probabilities, two.probabilities, strict=True)
    )
    findings.check(
        "raw images", largest <= MAX_PROBABILITY_DIFFERENCE,
        f"largest difference of a probability from the checkpoint {largest:.1e}",
    )  # fmt: skip


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
