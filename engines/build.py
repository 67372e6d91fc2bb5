"""Build an engine from an ONNX graph and write it with its manifest, or build one only to count its kernels.

TensorRT is never loaded into this process: see `engines.build_process`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hemf_export.engines import backends, build_process, machine
from hemf_export.engines import census as censuses
from hemf_export.engines import golden as golden_images
from hemf_export.engines.backends import BackendName
from hemf_export.engines.census import Census
from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.files.progress import SILENT, Progress


@dataclass(frozen=True)
class Engine:
    """A finished engine file.

    Args:
        path: the plan.
        backend: which TensorRT built it.
        version: the backend's version.
        seconds: how long the build took.
        manifest: as written beside it.
        notes: the builder's warnings, and what else a user should know.
        census: of its kernels; None where the builder's list isn't understood.
    """

    path: Path
    backend: BackendName
    version: str
    seconds: float
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    census: Census | None = None


def build_engine(
    graph: Path,
    output: Path,
    *,
    backend: BackendName,
    target: Target,
    options: BuildOptions,
    fields: dict[str, Any],
    golden: Golden | None = None,
    blocks: Mapping[str, str] | None = None,
    judge: Callable[[Census | None], dict[str, Any]] = lambda census: {},
    progress: Progress = SILENT,
) -> Engine:
    """Build `graph` for `target` and write the plan and its manifest to `output`.

    Args:
        graph: a verified ONNX file; the engine computes in its types.
        output: the engine file.
        backend: which TensorRT.
        target: GPU or compute capability.
        options: how to build.
        fields: further fields of the manifest: classes, preprocessing, parents, proofs.
        golden: images with the graph's logits, to check the engine with where it runs.
        blocks: ONNX node name → block of the network.
        judge: inspects the compiled kernels before anything is written, and returns fields of the manifest; if it
            raises, all files stay as they were.
        progress: receives the builder's phases.

    Raises:
        MissingCapabilityError: no such backend here, or it can't build for the target.
        BadInputError: TensorRT can't build the graph, and the message has its reason; or a folder can't be written.
    """
    artifacts.check_writable(output)
    started = time.monotonic()
    gpu = backends.gpu_name()
    decided = options.for_gpu(target, gpu)
    own: dict[str, Any] = {
        "kind": "engine",
        "parent": graph.name,
        "parent_sha256": artifacts.sha256(graph),
        "backend": backend,
        "target": target.name,
        "compute_capability": target.sm,
        "platform": machine.platform_here(),
        "built_on": gpu,
        "build": options.to_dict(),
    }
    # The plan is made elsewhere: if this process is killed, the folder of the output stays as it was.
    with artifacts.scratch() as folder:
        plan = folder / "plan"
        log = _log_path(output, folder)
        with progress.task("Building the engine"):
            result = build_process.run(
                graph, plan, log, backend=backend, target=target, options=decided, gpu=gpu, progress=progress
            )
        seconds = time.monotonic() - started
        census = None
        if result["census"]:
            counted = Census.from_dict(result["census"])
            census = _with_sizes(counted, graph, target, options, progress).with_blocks(blocks or {})
        judged = judge(census)
        own |= {
            "backend_version": result["version"],
            "version_compatible": options.version_compatible,
            "hardware_compatible": backend == "tensorrt-rtx" or decided.hardware_compatible,
            "build_seconds": round(seconds, 1),
            "build_peak_memory_bytes": result["peak_memory_bytes"],
            "builder_warnings": result["warnings"],
            "tensors": result["tensors"],
            "network_layers": result["layers"],
            "timing_cache": result["timing_cache"],
            "census": None if census is None else census.to_dict(),
            **judged,
        }
        with locks.exclusive(output):
            unknown = [] if result["census_note"] is None else [result["census_note"]]
            notes = result["warnings"] + unknown + _rebuild_note(output, own, artifacts.sha256(plan))
            artifacts.copy_to(plan, output)
            # Images of an earlier engine are not this one's, and its maker may not want them to lie here.
            golden_images.place(output).unlink(missing_ok=True)
            if golden is not None:
                own["golden"] = golden.write(output)
            manifest = artifacts.write_manifest(output, {**own, **fields})
    return Engine(output, backend, result["version"], seconds, manifest, tuple(notes), census)


def take_census(
    graph: Path | bytes,
    target: Target,
    backend: BackendName = "tensorrt-rtx",
    batch: int = 1,
    *,
    blocks: Mapping[str, str] | None = None,
    options: BuildOptions | None = None,
    progress: Progress = SILENT,
) -> Census:
    """Compile a graph for one batch size in a child process, count its kernels, and keep no engine.

    Earlier counts are in the cache folder, by the graph's bytes, backend, version, compute capability, batch and
    options. Weights in external data files are not part of that key: they are taken to be unchanged.

    Args:
        graph: an ONNX file or its bytes, strongly typed.
        target: GPU or compute capability.
        backend: which TensorRT; `tensorrt` needs a GPU of the target's kind.
        batch: images per call; a graph with a fixed batch keeps to that.
        blocks: ONNX node name → block of the network.
        options: how to build; their profiles are not used.
        progress: receives the builder's phases.

    Raises:
        MissingCapabilityError: no such backend here, or it can't build for the target.
        BadInputError: TensorRT can't build the graph, or lists no kernels in a form that is known here.
    """
    version = backends.installed_version(backend)
    gpu = backends.gpu_name() if backend == "tensorrt" else None
    only = replace(options or BuildOptions(), profiles=(BatchProfile(batch, batch, batch),)).for_gpu(target, gpu)
    cache = None if version is None else _census_path(graph, target, backend, f"{version} {gpu or ''}".strip(), only)
    if cache is not None and (cached := _cached_census(cache)) is not None:
        return cached.with_blocks(blocks or {})
    with artifacts.scratch() as folder:
        path = graph if isinstance(graph, Path) else folder / "graph.onnx"
        if isinstance(graph, bytes):
            artifacts.write_bytes(path, graph)
        result = build_process.run(
            path, folder / "plan", folder / "log", backend=backend, target=target, options=only,
            gpu=gpu, progress=progress,
        )  # fmt: skip
    if result["census"] is None:
        raise BadInputError(result["census_note"])
    census = Census.from_dict(result["census"])
    if cache is not None:
        with suppress(BadInputError):  # a cache that can't be written
            artifacts.check_folder(cache.parent)
            artifacts.write_json(cache, census.to_dict())
    return census.with_blocks(blocks or {})


def _census_path(graph: Path | bytes, target: Target, backend: str, version: str, options: BuildOptions) -> Path | None:
    content = artifacts.sha256(graph) if isinstance(graph, Path) else hashlib.sha256(graph).hexdigest()
    key = json.dumps([censuses.FORMAT, content, backend, version, target.sm, options.to_dict()])
    try:
        return artifacts.cache_folder() / "census" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    except BadInputError:  # a user without a home
        return None


def _cached_census(path: Path) -> Census | None:
    try:
        return Census.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError, BadInputError):
        return None


def _with_sizes(census: Census, graph: Path, target: Target, options: BuildOptions, progress: Progress) -> Census:
    """Complete a census of a range of batches with the sizes of a twin, compiled for the optimum alone and not kept.

    TensorRT-RTX compiles a second time in seconds. TensorRT times kernels for minutes: its sizes stay open.
    """
    first = options.profiles[0]
    if census.batch is not None or census.backend != "tensorrt-rtx" or first.minimum == first.maximum:
        return census
    try:
        with progress.task(f"Looking up sizes at batch {first.optimum}"):
            twin = take_census(graph, target, "tensorrt-rtx", first.optimum, options=options, progress=progress)
    except HemfError:  # the engine is complete without it
        return census
    return replace(census, batch=twin.batch, twin=twin.kernels)


def _log_path(output: Path, scratch: Path) -> Path:
    """The path of the builder's log: in the cache folder, or in `scratch` where that can't be written."""
    log = artifacts.log_path(output)
    try:
        artifacts.check_folder(log.parent)
    except BadInputError:
        return scratch / log.name
    return log


def _rebuild_note(output: Path, own: dict[str, Any], plan_hash: str) -> list[str]:
    """A note where `output` holds an engine of exactly this build, with other bytes."""
    try:
        before = artifacts.read_manifest(output) if output.is_file() else None
    except HemfError:  # it is replaced anyway
        return []
    same = ("parent_sha256", "backend", "backend_version", "compute_capability", "build")
    if before is None or any(before.get(key) != own[key] for key in same) or before["sha256"] == plan_hash:
        return []
    return [
        f"{output.name} was here, built from the same graph in the same way, with other bytes "
        f"(SHA-256 {before['sha256'][:16]}…, now {plan_hash[:16]}…): TensorRT's builds don't repeat byte for byte."
    ]
