"""Steps of the GPU check that compare engines of hemf-base: of other graphs, and in other precisions."""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import onnx_ir as ir
import torch

import hemf_export
from hemf_export import engines as running
from hemf_export.engines import backends, build, targets
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.runner import EngineRunner
from hemf_export.files.errors import MissingCapabilityError
from hemf_export.gpu_check import engines, material
from hemf_export.gpu_check.step import Findings, Place
from hemf_export.pages import census_text

_BATCH, _ROUNDS = 8, 50
_WORTH_IT = 0.95  # share of FP16's time below which INT8 is worth it


def graph_forms(place: Place, findings: Findings) -> None:
    """Time the engines of the authors' architecture and of our graphs, and compare with their modelled times."""
    if not (material.PROJECT / "benchmarks" / "engine_census.py").is_file():
        raise MissingCapabilityError("benchmarks/ is not here: run this in the project's folder.")
    sys.path.append(str(material.PROJECT))
    made: Any = importlib.import_module("benchmarks.engine_census")
    backend = _backend(place)
    folder = place.folder / "forms"
    folder.mkdir(exist_ok=True)
    runners: dict[str, EngineRunner] = {}
    modelled: dict[str, float] = {}
    plain, baseline = made.exported(material.config(place, "hemf-base"), _BATCH)
    for number, (name, graph) in enumerate(made.halves(plain, baseline, every_pass=False)):
        with findings.attempt(f"built: {name}"):
            path = folder / f"{number}.onnx"
            ir.save(graph, path)
            built = build.build_engine(
                path, path.with_suffix(".engine"), backend=backend, target=targets.find(material.target(place)),
                options=BuildOptions(profiles=(BatchProfile(_BATCH, _BATCH, _BATCH),)), fields={},
            )  # fmt: skip
            census = census_text.of_manifest(built.manifest)
            chip = targets.find("t4").chip
            ms = None if census is None or chip is None else census.model_ms(chip, _BATCH)
            if ms is not None:
                modelled[name] = ms
            runners[name] = running.load(built.path)
            findings.check(f"built: {name}", True, "built" if ms is None else f"modelled at {ms:.2f} ms on a T4")
    medians = _in_turn(place, runners)
    findings.facts = {"median_ms": medians, "modelled_ms_on_a_t4": modelled}
    first, *_, last = medians
    ratio = medians[last] / medians[first]
    expected = modelled[last] / modelled[first] if {first, last} <= set(modelled) else None
    shown = "" if expected is None else f", modelled {expected:.2f}"
    findings.check("faster than the first", ratio < 1, f"{last}: {ratio:.2f} of the time of {first}{shown}")
    if set(modelled) == set(medians):
        order = sorted(medians, key=medians.__getitem__) == sorted(modelled, key=modelled.__getitem__)
        findings.check("ordered as modelled", order, "yes" if order else "no")


def int8(place: Place, findings: Findings) -> None:
    """Time INT8 engines of hemf-base beside FP16."""
    backends.load("tensorrt")
    source = material.untrained(place)
    files = [
        engines.engine(place, material.half(place, source), "base", "tensorrt", batches=("1:8:8",)),
        engines.engine(place, material.quantized(place, source), "base-int8", "tensorrt", batches=("1:8:8",)),
    ]
    outcome = hemf_export.benchmark(
        files, batches=[1, 8], seconds=10, runners=["engine"], transfers="out", memory=False
    )  # fmt: skip
    medians = engines.medians(outcome, "precision")
    for batch in (1, 8):
        share = medians[("int8", batch)] / medians[("fp16", batch)]
        findings.facts[f"share_of_fp16_at_batch_{batch}"] = share
        findings.check(f"batch {batch}", True, f"{share:.2f} of FP16's time")
    if targets.find("t4").is_product(backends.gpu_name()):  # of other GPUs nothing is claimed
        best = min(findings.facts.values())
        findings.check("not 5 % faster on a T4", best >= _WORTH_IT, f"{best:.2f} of FP16's time at best")


def _backend(place: Place) -> backends.BackendName:
    """TensorRT-RTX, which the graphs are rewritten for, or TensorRT on GPUs that it has no kernels for."""
    if material.target(place) not in ("sm_87", "sm_90"):
        with suppress(MissingCapabilityError):
            return backends.load("tensorrt-rtx").name
    return backends.load("tensorrt").name


def _in_turn(place: Place, runners: Mapping[str, EngineRunner]) -> dict[str, float]:
    """Median milliseconds of each runner, in alternating rounds, input and logits on the GPU."""
    rounds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(3 if place.small else _ROUNDS):
        for name, runner in runners.items():
            images = torch.zeros((_BATCH, *runner.interface.input.shape), dtype=runner.interface.input.dtype)
            batch = images.to(place.device)
            material.wait(place)
            started = time.perf_counter()
            runner.infer(batch)
            material.wait(place)
            if number:  # the first one captures
                rounds[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in rounds.items()}
