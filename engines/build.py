"""Build an engine from an ONNX graph and write it with its manifest. Never loads TensorRT into this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hemf_export.engines import backends, child_build, machine
from hemf_export.engines import census as censuses
from hemf_export.engines import golden as golden_images
from hemf_export.engines.backends import BackendName
from hemf_export.engines.census import Census
from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.files.progress import SILENT, Progress


@dataclass(frozen=True)
class Engine:
    """A finished engine file.

    Args:
        path: of the plan.
        backend: what built it.
        version: of the backend.
        seconds: the build took.
        manifest: as written beside it.
        notes: what the builder warned of, and what else a user should know.
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
    """Build `graph` for `target` and put the plan and its manifest at `output`.

    Args:
        graph: an ONNX file that was proven; the engine computes in its types.
        output: the engine file.
        backend: which TensorRT.
        target: GPU or compute capability.
        options: how to build.
        fields: of the manifest: classes, preprocessing, parents, proofs.
        golden: images with the graph's logits, to check the engine with where it runs.
        blocks: of the network, by the name of the ONNX node.
        judge: looks at what was compiled before anything is written, and gives fields of the manifest; what it raises
            leaves everything as it was.
        progress: receives the builder's phases.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: TensorRT doesn't take the graph, and the message has its reason; or a folder can't be written.
    """
    artifacts.check_writable(output)
    started = time.monotonic()
    gpu = backends.gpu_name()
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
    # The plan is made elsewhere: were this process killed, the folder of the output would be as it was.
    with artifacts.scratch() as folder:
        plan = folder / "plan"
        log = _log_of(output, folder)
        with progress.task("Building the engine"):
            told = child_build.run(
                graph, plan, log, backend=backend, target=target, options=options, gpu=gpu, progress=progress
            )
        seconds = time.monotonic() - started
        census = None
        if told["census"]:
            counted = Census.from_dict(told["census"])
            census = _sized(counted, graph, target, options, progress).with_blocks(blocks or {})
        judged = judge(census)
        own |= {
            "backend_version": told["version"],
            "version_compatible": options.version_compatible,
            "build_seconds": round(seconds, 1),
            "build_peak_memory_bytes": told["peak_memory_bytes"],
            "builder_warnings": told["warnings"],
            "tensors": told["tensors"],
            "network_layers": told["layers"],
            "timing_cache": told["timing_cache"],
            "census": None if census is None else census.to_dict(),
            **judged,
        }
        with locks.exclusive(output):
            unknown = [] if told["census_note"] is None else [told["census_note"]]
            notes = told["warnings"] + unknown + _compared(output, own, artifacts.sha256(plan))
            artifacts.copy_to(plan, output)
            # Images of an earlier engine are not this one's, and its maker may not want them to lie here.
            golden_images.place(output).unlink(missing_ok=True)
            if golden is not None:
                own["golden"] = golden.write(output)
            manifest = artifacts.write_manifest(output, {**own, **fields})
    return Engine(output, backend, told["version"], seconds, manifest, tuple(notes), census)


def _sized(found: Census, graph: Path, target: Target, options: BuildOptions, progress: Progress) -> Census:
    """A census with all sizes: for a range of batches, those of a twin that is compiled for the optimum and not kept.

    TensorRT-RTX compiles a second time in seconds. TensorRT measures kernels for minutes: its sizes stay open.
    """
    first = options.profiles[0]
    if found.batch is not None or found.backend != "tensorrt-rtx" or first.minimum == first.maximum:
        return found
    try:
        with progress.task(f"Looking up sizes at batch {first.optimum}"):
            twin = censuses.take(graph, target, "tensorrt-rtx", first.optimum, options=options, progress=progress)
    except HemfError:  # the engine is there, and none the worse for it
        return found
    return replace(found, batch=twin.batch, twin=twin.kernels)


def _log_of(output: Path, scratch: Path) -> Path:
    """Where the builder's log goes: the cache folder, or what is removed afterwards where that can't be written."""
    log = artifacts.log_path(output)
    try:
        artifacts.check_folder(log.parent)
    except BadInputError:
        return scratch / log.name
    return log


def _compared(output: Path, own: dict[str, Any], plan_hash: str) -> list[str]:
    """A note where the engine that lies at `output` came of the very same build, and has other bytes."""
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
