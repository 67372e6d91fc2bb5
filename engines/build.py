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

from engines import backends, machine
from engines import golden as golden_images
from engines.backends import BackendName
from engines.golden import Golden
from engines.options import BuildOptions
from engines.targets import Target
from hemf import artifacts, child, locks
from hemf.errors import BadInputError, HemfError, MissingCapabilityError

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
        notes: what the builder warned of, and what else a user should know.
    """

    path: Path
    backend: BackendName
    version: str
    seconds: float
    manifest: dict[str, Any]
    notes: tuple[str, ...]


def build_engine(
    graph: Path,
    output: Path,
    *,
    backend: BackendName,
    target: Target,
    options: BuildOptions,
    fields: dict[str, Any],
    golden: Golden | None = None,
    progress: Progress = lambda phase, step, steps: None,
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
        progress: told of the builder's phases.

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
        told = _run(graph, output, plan, backend, target, options, gpu, progress)
        seconds = time.monotonic() - started
        own |= {
            "backend_version": told["version"],
            "version_compatible": options.version_compatible,
            "build_seconds": round(seconds, 1),
            "build_peak_memory_bytes": told["peak_memory_bytes"],
            "builder_warnings": told["warnings"],
            "tensors": told["tensors"],
            "network_layers": told["layers"],
            "timing_cache": told["timing_cache"],
        }
        with locks.exclusive(output):
            notes = told["warnings"] + _compared(output, own, artifacts.sha256(plan))
            artifacts.copy_to(plan, output)
            # Images of an earlier engine are not this one's, and its maker may not want them to lie here.
            golden_images.place(output).unlink(missing_ok=True)
            if golden is not None:
                own["golden"] = golden.write(output)
            manifest = artifacts.write_manifest(output, {**own, **fields})
    return Engine(output, backend, told["version"], seconds, manifest, tuple(notes))


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


def _run(
    graph: Path, output: Path, plan: Path, backend: BackendName, target: Target, options: BuildOptions,
    gpu: str | None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Run the worker; what it told last."""
    log = _log_of(output, plan.parent)
    request = {
        "graph": str(graph.resolve()),
        "backend": backend,
        "target": target.name,
        "options": options.to_dict(),
        "gpu": gpu,
        "log": str(log),
    }
    last: dict[str, Any] = {}
    request_path = plan.with_name("request.json")
    artifacts.write_bytes(request_path, json.dumps(request).encode())
    command = child.command("engines.worker", str(request_path), str(plan))
    with tempfile.TemporaryFile() as noise_file:
        # Its standard input is held open for as long as this process lives.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise_file, encoding="utf-8",
            errors="replace",
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            try:
                for line in worker.stdout:
                    last = _message(line) or last
                    if "phase" in last:
                        progress(last["phase"], last["step"], last["steps"])
            except BaseException:
                worker.kill()
                raise
        noise_file.seek(0)
        noise = noise_file.read().decode(errors="replace").strip().splitlines()
    if worker.returncode == 0:
        return last
    reason = last.get("error") or (noise[-1] if noise else "no reason given")
    hint = last.get("hint") or _way_out(reason)
    if log.is_file() and log.parent != plan.parent:
        hint += f" The builder's whole log: {log}"
    if worker.returncode < 0:
        raise BadInputError(f"{backend} crashed (signal {-worker.returncode}) on {graph}: {reason}", hint)
    if worker.returncode == MissingCapabilityError.exit_code:
        raise MissingCapabilityError(reason, last.get("hint"))
    if worker.returncode == 1 and "error" in last:
        raise BadInputError(f"{backend} can't build {graph} for {target.name}: {reason}", hint)
    raise HemfError(f"The build of {graph} failed: {reason}", hint)


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
    if "OutOfMemory" in reason.replace(" ", "") or "out of memory" in reason.lower():
        return "Give the builder more memory, a smaller --workspace, or smaller batches (--batch)."
    return "Export the graph again, or try another opset (hemf-export onnx --opset)."
