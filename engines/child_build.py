"""A build in a child process: `engines.worker` started, listened to, and its failures told as errors.

TensorRT is never loaded into the process that asks: a native parser or compiler that crashes takes only the child.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hemf_export.engines.backends import BackendName
from hemf_export.engines.options import BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts, child
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from hemf_export.files.progress import SILENT, Progress


def run(
    graph: Path, plan: Path, log: Path, *, backend: BackendName, target: Target, options: BuildOptions, gpu: str | None,
    progress: Progress = SILENT,
) -> dict[str, Any]:  # fmt: skip
    """Build `graph` in a child process.

    Args:
        graph: an ONNX file.
        plan: where the plan goes, in a folder of this build's own.
        log: where the builder's log goes; it stays where the build fails.
        backend: which TensorRT.
        target: GPU or compute capability.
        options: how to build.
        gpu: product name of this machine's GPU, or None.
        progress: receives the builder's phases.

    Returns:
        What the worker told last; see `engines.worker`.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: TensorRT doesn't take the graph, and the message has its reason.
    """
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
    command = child.command("hemf_export.engines.worker", str(request_path), str(plan))
    with tempfile.TemporaryFile() as noise_file:
        # Its standard input is held open for as long as this process lives.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise_file, encoding="utf-8",
            errors="replace",
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            try:
                with progress.task(f"Starting {backend}") as task:
                    for line in worker.stdout:
                        last = _message(line) or last
                        if "phase" in last:
                            task.update(last["step"], last["steps"], last["phase"])
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
            "TensorRT-RTX has no float32 products on Turing: build the float16 graph (`precision='fp16'`), or use "
            "tensorrt on a T4."
        )
    if "OutOfMemory" in reason.replace(" ", "") or "out of memory" in reason.lower():
        return "Give the builder more memory, a smaller `workspace_mib`, or smaller batches (`batch`)."
    return "Export the graph again, or try another opset (`export_onnx(opset=N)`)."
