"""A build in a child process, both ends of it.

TensorRT is never loaded into the process that asks for an engine: a native parser or compiler that crashes takes only
the child with it. `run` starts `python -m hemf_export.engines.build_process REQUEST PLAN`, whose `main` builds.

REQUEST is a JSON file in a folder of this build's own. The child writes JSON lines on its standard output: the
builder's phases, and last either the result or the error. Its exit code is the error's. When its standard input
closes, the process that started it is gone: it cleans up and ends.

The kernels that were compiled are read from the builder's log (see `engines.kernels`). A list that isn't understood
fails no build.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from hemf_export.engines import backends, builder, caches, census, kernels, targets
from hemf_export.engines.backends import Backend, BackendName
from hemf_export.engines.builder import BuildLog
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
        plan: where to write the plan: in a folder of this build's own.
        log: where to write the builder's log; it stays where the build fails.
        backend: which TensorRT.
        target: GPU or compute capability.
        options: how to build, with `hardware_compatible` decided.
        gpu: product name of this machine's GPU, or None.
        progress: receives the builder's phases.

    Returns:
        The backend's version, I/O tensors, layers, warnings, census, size of the plan and peak memory.

    Raises:
        MissingCapabilityError: no such backend here, or it can't build for the target.
        BadInputError: TensorRT can't build the graph; the message has its reason.
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
    command = child.command("hemf_export.engines.build_process", str(request_path), str(plan))
    with tempfile.TemporaryFile() as stderr_file:
        # Its standard input is held open for as long as this process lives.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr_file, encoding="utf-8",
            errors="replace",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                with progress.task(f"Starting {backend}") as task:
                    for line in process.stdout:
                        last = _message(line) or last
                        if "phase" in last:
                            task.update(last["step"], last["steps"], last["phase"])
            except BaseException:
                process.kill()
                raise
        stderr_file.seek(0)
        stderr = stderr_file.read().decode(errors="replace").strip().splitlines()
    if process.returncode == 0:
        return last
    reason = last.get("error") or (stderr[-1] if stderr else "no reason given")
    hint = last.get("hint") or _remedy(reason)
    if log.is_file() and log.parent != plan.parent:
        hint += f" The builder's whole log: {log}"
    if process.returncode < 0:
        raise BadInputError(f"{backend} crashed (signal {-process.returncode}) on {graph}: {reason}", hint)
    if process.returncode == MissingCapabilityError.exit_code:
        raise MissingCapabilityError(reason, last.get("hint"))
    if process.returncode == 1 and "error" in last:
        raise BadInputError(f"{backend} can't build {graph} for {target.name}: {reason}", hint)
    raise HemfError(f"The build of {graph} failed: {reason}", hint)


def _message(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # printed by some library
        return None
    return value if isinstance(value, dict) else None


def _remedy(reason: str) -> str:
    if "FP32 GEMM is not supported" in reason:
        return (
            "TensorRT-RTX has no float32 matrix products on Turing: build the float16 graph (`precision='fp16'`), or "
            "use tensorrt on a T4."
        )
    if "insufficient workspace" in reason.lower():
        return "A layer needs more scratch memory than `workspace_mib` allows: give it more."
    if backends.lacks_memory(reason):
        return "Give the builder more memory, a smaller `workspace_mib`, or smaller batches (`batch`)."
    return "Export the graph again, or try another opset (`export_onnx(opset=N)`)."


# The child


def main(request_path: str, plan_path: str) -> int:
    """Build what the request asks for and write the plan."""
    request: dict[str, Any] = json.loads(Path(request_path).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, args=(Path(request_path).parent,), daemon=True).start()
    log_path = Path(request["log"])
    with artifacts.growing_log(log_path) as file:
        log = BuildLog(file)
        try:
            backend = backends.load(request["backend"])
            result = _build(backend, request, Path(plan_path), log)
            result |= _census(backend, request, result, log)
        except builder.BuildFailedError as error:
            _send(error=str(error))
            return 1
        except HemfError as error:
            _send(error=error.message, hint=error.hint)
            return error.exit_code
    log_path.unlink(missing_ok=True)
    _send(version=backend.version, warnings=log.warnings, **result)
    return 0


def _build(backend: Backend, request: dict[str, Any], plan_path: Path, log: BuildLog) -> dict[str, Any]:
    options = BuildOptions.from_dict(request["options"])
    gpu = request["gpu"]
    # TensorRT-RTX times no kernels when it builds.
    timed = backend.name == "tensorrt" and options.timing_cache and gpu is not None
    cache = caches.timing_cache_path(artifacts.cache_folder(), backend.name, backend.version, gpu) if timed else None
    timings, damaged = caches.read(cache) if cache else (None, None)
    if damaged:
        log.add("WARNING", damaged)
    plan = builder.build_plan(
        backend, Path(request["graph"]), targets.find(request["target"]), options, log=log, timing_cache=timings,
        task=_SentTask(),
    )  # fmt: skip
    artifacts.write_bytes(plan_path, plan.data)
    if cache is not None and plan.timing_cache:
        try:
            caches.add(
                cache, plan.timing_cache, lambda there, new: builder.merge_timing_caches(backend, there, new, log)
            )
        except BadInputError as error:
            log.add("WARNING", f"The timing cache was not kept: {error.message}")
    return {
        "tensors": plan.tensors,
        "layers": plan.layers,
        "plan_bytes": len(plan.data),
        "timing_cache": None if cache is None else ("used" if plan.timing_cache_used else "begun"),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _census(backend: Backend, request: dict[str, Any], result: dict[str, Any], log: BuildLog) -> dict[str, Any]:
    """Count the kernels of the plan, as the builder listed them."""
    listed = kernels.parse(log.layers)
    if not listed:
        note = f"{backend.name} {backend.version} lists no kernels in a form that is known here; there is no census."
        return {"census": None, "census_note": note}
    first, fixed = BuildOptions.from_dict(request["options"]).profiles[0], result["tensors"][0]["shape"][0]
    batch: int | None = first.optimum if fixed == -1 else fixed
    if not census.is_complete(listed):
        batch = None
    counted = census.of(
        listed, backend=backend.name, version=backend.version, sm=targets.find(request["target"]).sm, batch=batch,
        plan_bytes=result["plan_bytes"],
    )  # fmt: skip
    return {"census": counted.to_dict(), "census_note": None}


def _peak_memory_bytes() -> int | None:
    """The most host memory that this process held; None where the system doesn't report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    # In KiB on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_with_parent(folder: Path) -> None:
    """Wait until standard input closes, which the parent holds open; then remove `folder` and end the process."""
    # Not through sys.stdin: Python aborts at its end if a thread still holds that object.
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class _SentTask:
    """Sends the builder's phases to the parent."""

    def __init__(self) -> None:
        self._completed = 0.0

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        self._completed = completed
        _send(phase=text, step=completed, steps=total)

    def advance(self, count: float = 1) -> None:
        self.update(self._completed + count)


def _send(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
