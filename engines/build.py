"""Build an engine from an ONNX graph and write it with its manifest. Never loads TensorRT into this process."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends import BackendName
from engines.batches import BatchProfile
from engines.targets import Target
from hemf import artifacts, child
from hemf.errors import BadInputError, HemfError, MissingCapabilityError

WORKSPACE_BYTES = 2 << 30

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Engine:
    """A finished engine file.

    Args:
        path: of the plan.
        backend: what built it.
        version: of the backend.
        seconds: the build took.
        manifest: as written beside it.
    """

    path: Path
    backend: BackendName
    version: str
    seconds: float
    manifest: dict[str, Any]


def build_engine(
    graph: Path,
    output: Path,
    *,
    backend: BackendName,
    target: Target,
    profile: BatchProfile,
    fields: dict[str, Any],
    progress: Progress = lambda phase, step, steps: None,
) -> Engine:
    """Build `graph` for `target` and put the plan and its manifest at `output`.

    Args:
        graph: an ONNX file that was proven; the engine computes in its types.
        output: the engine file.
        backend: which TensorRT.
        target: GPU or compute capability.
        profile: batch sizes.
        fields: of the manifest: classes, preprocessing, parents, proofs.
        progress: told of the builder's phases.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: TensorRT doesn't take the graph; the message has its reason.
    """
    artifacts.check_writable(output)
    started = time.monotonic()
    with artifacts.atomic_path(output) as temporary:
        version = _run(graph, temporary, backend, target, profile, progress)
    seconds = time.monotonic() - started
    own = {
        "kind": "engine",
        "parent": graph.name,
        "parent_sha256": artifacts.sha256(graph),
        "backend": backend,
        "backend_version": version,
        "target": target.name,
        "compute_capability": target.sm,
        "batch_profile": str(profile),
        "build_seconds": round(seconds, 1),
    }
    return Engine(output, backend, version, seconds, artifacts.write_manifest(output, {**own, **fields}))


def _run(
    graph: Path, plan: Path, backend: BackendName, target: Target, profile: BatchProfile, progress: Progress
) -> str:
    """Run the worker; the backend's version."""
    request = {
        "graph": str(graph.resolve()),
        "backend": backend,
        "target": target.name,
        "profile": str(profile),
        "workspace_bytes": WORKSPACE_BYTES,
    }
    last: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hemf-export-") as folder, tempfile.TemporaryFile() as log:
        request_path = Path(folder, "request.json")
        artifacts.write_bytes(request_path, json.dumps(request).encode())
        command = child.command("engines.worker", str(request_path), str(plan))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as worker:
            assert worker.stdout is not None
            try:
                for line in worker.stdout:
                    last = _message(line) or last
                    if "phase" in last:
                        progress(last["phase"], last["step"], last["steps"])
            except BaseException:
                worker.kill()
                raise
        log.seek(0)
        noise = log.read().decode(errors="replace").strip().splitlines()
    if worker.returncode == 0:
        return str(last["version"])
    reason = last.get("error") or (noise[-1] if noise else "no reason given")
    if worker.returncode < 0:
        raise BadInputError(f"{backend} crashed (signal {-worker.returncode}) on {graph}: {reason}", _way_out(reason))
    if worker.returncode == MissingCapabilityError.exit_code:
        raise MissingCapabilityError(reason, last.get("hint"))
    if worker.returncode == 1 and "error" in last:
        raise BadInputError(f"{backend} can't build {graph} for {target.name}: {reason}", _way_out(reason))
    raise HemfError(f"The build of {graph} failed: {reason}")


def _message(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # a library that prints
        return None
    return value if isinstance(value, dict) else None


def _way_out(reason: str) -> str:
    if "FP32 GEMM is not supported" in reason:
        return (
            "TensorRT-RTX has no float32 products on Turing: build the float16 graph (--fp16), or use tensorrt on a T4."
        )
    return "Export the graph again, or try another opset (hemf-export onnx --opset)."
