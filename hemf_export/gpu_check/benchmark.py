"""Step of the GPU check: `bench` with every runner of PyTorch and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import hemf_export
from hemf_export.bench.lineup import ORT_KINDS, TORCH_KINDS, Kind
from hemf_export.files.errors import HemfError
from hemf_export.gpu_check import material
from hemf_export.gpu_check.step import Findings, Place

KINDS: tuple[Kind, ...] = (*TORCH_KINDS, *(kind for kind in ORT_KINDS if kind != "ort-cpu"))


def benchmark(place: Place, findings: Findings) -> None:
    """Time a small network in float32, FP16 and INT8 with every runner that needs no engine.

    In three benchmarks, each with "eager" as the reference: first the quick runners, and then those that compile or
    build an engine for each batch size, which takes half a minute.
    """
    source = material.trained(place)
    files = [source, material.exported(place, source), material.half(place, source), material.quantized(place, source)]
    compiled = tuple(kind for kind in TORCH_KINDS if kind.startswith("compile"))
    quick = tuple(kind for kind in KINDS if kind not in (*compiled, "ort-tensorrt"))
    groups: tuple[tuple[tuple[Kind, ...], dict[str, Any]], ...] = (
        (quick, {"batches": [1, 8], "transfers": "both"}),
        (compiled, {"batches": [1, 8], "transfers": "out"}),
        (("ort-tensorrt",), {"batches": [8], "transfers": "out"}),
    )
    findings.facts = {"timings": [], "not_run": []}
    for kinds, settings in groups:
        with findings.attempt(" and ".join(kinds)):
            reference: tuple[Kind, ...] = ("eager",) if "eager" not in kinds else ()
            outcome = hemf_export.benchmark(files, seconds=5, runners=(*reference, *kinds), memory=False, **settings)
            _judge(kinds, outcome, findings)


def _judge(kinds: tuple[Kind, ...], outcome: hemf_export.Benchmark, findings: Findings) -> None:
    timings, missing = outcome.values["timings"], outcome.values["not_run"]
    findings.facts["timings"] += [_median(timing) for timing in timings]
    findings.facts["not_run"] += missing
    for kind in kinds:
        timed = [timing for timing in timings if timing["runner"] == kind]
        lost = [one for one in missing if one["name"].startswith(f"{kind},")]
        if timed:
            fastest = min(timing["latency_ms"]["p50"] / timing["batch"] for timing in timed)
            found = f"{len(timed)} timed, the fastest {fastest:.2f} ms an image"
            findings.check(kind, not any(one["failed"] for one in lost), "; ".join([found, *_reasons(lost)]))
        elif any(one["failed"] for one in lost):
            findings.check(kind, False, "; ".join(_reasons(lost)))
        else:
            findings.cannot(kind, "; ".join(_reasons(lost)) or "left out")
    if "eager" in kinds:
        gpu = outcome.values["conditions"]["gpu"] or {}
        seen = {name: gpu.get(name) for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c")}
        findings.check(
            "conditions", None not in seen.values(), ", ".join(f"{name} {value}" for name, value in seen.items())
        )
    if outcome.problem is not None:
        raise HemfError(outcome.problem)


def _median(timing: dict[str, Any]) -> dict[str, Any]:
    return {"name": timing["name"], "batch": timing["batch"], "median_ms": timing["latency_ms"]["p50"]}


def _reasons(missing: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(one["reason"] for one in missing))
