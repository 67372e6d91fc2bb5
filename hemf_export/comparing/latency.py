"""Latency of different networks on this machine, side by side in one process: ONNX files on a CPU, engines on a GPU.

`bench` compares files of one model, whose logits must agree. Those of different networks don't: that a file computes
what its checkpoint does is proven when it is exported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemf_export.bench import conditions, contenders
from hemf_export.bench.conditions import Conditions
from hemf_export.bench.lineup import Entry, Kind
from hemf_export.checkpoints.reading import Reading
from hemf_export.engines import backends, targets
from hemf_export.engines.options import BatchProfile
from hemf_export.export import onnx_export
from hemf_export.files import processors
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.model_input import ModelInput
from hemf_export.models.model_file import CheckpointFile, EngineFile, OnnxFile
from hemf_export.precision import build_engine
from hemf_export.timing import failures, intervals, measurement
from hemf_export.timing.measurement import Contender, Timing

BATCH = 1
SECONDS = 30.0
_RUNNERS: dict[Kind, str] = {
    "ort-cpu": "ONNX Runtime on the CPU",
    "ort-cuda": "ONNX Runtime on the GPU",
    "engine": "TensorRT engines of the float32 graphs",
}


@dataclass(frozen=True)
class Latencies:
    """Latencies of networks, measured in turn in one process.

    Args:
        kind: runner of all of them.
        timings: timing by network, in the order of the networks.
        missing: why a network was not timed, by network.
        machine: conditions of the measurement, as `bench.conditions` records them.
    """

    kind: Kind
    timings: Mapping[str, Timing]
    missing: Mapping[str, str]
    machine: Mapping[str, Any]

    def median_ms(self, name: str) -> float | None:
        """Median latency of a network; None if it was not timed."""
        return self.timings[name].median_ms if name in self.timings else None

    def describe(self) -> str:
        """Say in a sentence what was timed where."""
        cpu, gpu = self.machine["cpu"], self.machine["gpu"]
        where = f"{cpu['model']}, {cpu['threads']} threads"
        if gpu is not None and self.kind != "ort-cpu":
            where = str(gpu["name"])
        rounds = min((len(timing.latencies_ms) for timing in self.timings.values()), default=0)
        return (
            f"Latency: {_RUNNERS[self.kind]} ({where}), float32, batch {BATCH}, median of {rounds} rounds in which "
            f"each network runs once, on {str(self.machine['date'])[:10]}."
        )

    @property
    def notes(self) -> list[str]:
        """List what is missing, and what makes the latencies unreliable."""
        unstable = [name for name, timing in self.timings.items() if not timing.stable]
        notes = [f"{name} is not timed: {reason}" for name, reason in self.missing.items()]
        if unstable:
            notes.append(
                f"Time was up before these medians were known to {measurement.STABLE:.0%}: {', '.join(unstable)}."
            )
        return notes + conditions.warnings(dict(self.machine))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        networks = {}
        for name, timing in self.timings.items():
            interval = intervals.of_median(np.asarray(timing.latencies_ms))
            values = timing.to_dict()
            kept = {key: values[key] for key in ("rounds", "stable", "latency_ms", "latencies_ms")}
            networks[name] = {**kept, "median_ms": interval.to_dict()}
        return {
            "runner": self.kind,
            "batch": BATCH,
            "precision": "fp32",
            "networks": networks,
            "not_timed": dict(self.missing),
            "conditions": dict(self.machine),
        }


def measure(
    checkpoints: Mapping[str, tuple[Path, Reading]], *, seconds: float = SECONDS, progress: Progress = SILENT
) -> Latencies:  # fmt: skip
    """Export each network, unless its ONNX file is there, and time all of them side by side.

    Args:
        checkpoints: checkpoint by network, and how it is read; of one image size and number of classes. The ONNX
            files, and on a GPU engines, are written beside them.
        seconds: time limit of the timing, without export; at least `timing.measurement.MIN_ROUNDS` rounds are run.
        progress: receives the steps.

    Returns:
        The latencies; networks that can't be exported or run are in `missing`.
    """
    kind = _kind()
    missing: dict[str, str] = {}
    opened: list[Contender] = []
    first: ModelInput | None = None
    try:
        with progress.task("Exporting the networks", len(checkpoints), "networks") as task:
            for name, (checkpoint, reading) in checkpoints.items():
                task.update(len(opened) + len(missing), text=f"Exporting {name}")
                try:
                    file = _file(checkpoint, reading, kind, progress)
                    opened.append(_open(name, file, kind))
                    first = first or file.description.input
                except HemfError as error:
                    missing[name] = error.message
                    failures.release_memory()
        watched = Conditions(processors.threads(), None if kind == "ort-cpu" else conditions.open_gpu())
        timings = _timed(opened, first, seconds, watched, missing, progress) if first is not None else []
    finally:
        for contender in opened:
            contender.close()
        failures.release_memory()
    return Latencies(kind, {timing.name: timing for timing in timings}, missing, watched.to_dict())


def _kind() -> Kind:
    """Runner for this machine: engines where there is a GPU and its TensorRT, else ONNX Runtime."""
    capability = backends.gpu_capability()
    if capability is None:
        return "ort-cpu"
    try:
        backends.load(backends.choose("auto", _target(capability)))
    except MissingCapabilityError:
        return "ort-cuda"
    return "engine"


def _target(capability: tuple[int, int]) -> targets.Target:
    name = backends.gpu_name()
    return (targets.of_gpu(name) if name else None) or targets.find(f"sm_{capability[0]}{capability[1]}")


def _file(checkpoint: Path, reading: Reading, kind: Kind, progress: Progress) -> OnnxFile | EngineFile:
    """Provide the file that is timed: the float32 ONNX file of a checkpoint, or an engine of it."""
    graph = _graph(checkpoint, reading, progress)
    capability = backends.gpu_capability()
    if kind != "engine" or capability is None:
        return graph
    built = build_engine.make(
        build_engine.Request(
            graph.path, _target(capability), profiles=(BatchProfile(BATCH, BATCH, BATCH),), golden=0,
            wanted=build_engine.Wanted(precision="fp32"), reading=reading,
        ),
        progress,
    )  # fmt: skip
    return EngineFile.open(built.engine.path)


def _graph(checkpoint: Path, reading: Reading, progress: Progress) -> OnnxFile:
    """Provide the float32 ONNX file beside a checkpoint; one that is there is kept.

    Raises:
        BadInputError: a file of that name is of another checkpoint, or was exported otherwise.
    """
    path = onnx_export.default_output(checkpoint)
    if not path.exists():
        onnx_export.export(checkpoint, path, onnx_export.Options(), reading=reading, progress=progress)
        return OnnxFile.open(path)
    graph = OnnxFile.open(path)
    own = graph.description
    if own.checkpoint_sha256 != CheckpointFile.open(checkpoint).sha256:
        raise BadInputError(f"{path} is of another checkpoint.", "Move it away: it is exported again.")
    if own.precision != "fp32" or own.input.raw or own.batch is not None:
        raise BadInputError(f"{path} was exported with other options.", "Move it away: it is exported again.")
    return graph


def _open(name: str, file: OnnxFile | EngineFile, kind: Kind) -> Contender:
    on_gpu = kind != "ort-cpu"
    entry = Entry(
        name, kind, file.path, "cuda" if on_gpu else "cpu", True if on_gpu else None, "fp32", file.description
    )
    contender = contenders.open_entry(entry, threads=processors.threads())
    return dataclasses.replace(contender, tolerance=lambda _: math.inf)  # the logits of another network differ


def _timed(
    opened: Sequence[Contender], first: ModelInput, seconds: float, watched: Conditions, missing: dict[str, str],
    progress: Progress,
) -> list[Timing]:  # fmt: skip
    """Time what is open; what fails goes to `missing`."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, first.height, first.width, 3), np.uint8)
    try:
        timings, not_run = measurement.measure(
            opened, pixels, seconds=seconds, progress=progress, between_rounds=watched.look
        )
    except HemfError as error:
        missing |= {contender.name: error.message for contender in opened}
        return []
    missing |= {one.name: one.reason for one in not_run}
    return timings
