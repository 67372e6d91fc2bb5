"""The child process that builds: `python -m hemf_export.engines.worker REQUEST PLAN`. Progress is JSON lines on stdout.

REQUEST is a JSON file in a folder of this process's own. The exit code tells how it ended, as the command's would; the
last line has the reason. When its standard input closes, whoever started it is gone: it cleans up and ends.

The kernels that were compiled are read from the builder's log (see `engines.census`). Nothing that goes wrong with them
fails a build.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from hemf_export.engines import backends, builder, caches, census, kernels, targets
from hemf_export.engines.backends import Backend
from hemf_export.engines.messages import BuildLog
from hemf_export.engines.options import BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError


def main(request_path: str, plan_path: str) -> int:
    """Build what the request says and write the plan."""
    request: dict[str, Any] = json.loads(Path(request_path).read_text(encoding="utf-8"))
    threading.Thread(target=_end_when_alone, args=(Path(request_path).parent,), daemon=True).start()
    log_path = Path(request["log"])
    with artifacts.growing_log(log_path) as file:
        log = BuildLog(file)
        try:
            backend = backends.load(request["backend"])
            told = _build(backend, request, Path(plan_path), log)
            told |= _census(backend, request, told, log)
        except builder.BuildFailedError as error:
            _tell(error=str(error))
            return 1
        except HemfError as error:
            _tell(error=error.message, hint=error.hint)
            return error.exit_code
    log_path.unlink(missing_ok=True)
    _tell(version=backend.version, warnings=log.warnings, **told)
    return 0


def _build(backend: Backend, request: dict[str, Any], plan_path: Path, log: BuildLog) -> dict[str, Any]:
    options = BuildOptions.from_dict(request["options"])
    gpu = request["gpu"]
    # TensorRT-RTX measures nothing when it builds.
    times = backend.name == "tensorrt" and options.timing_cache and gpu is not None
    cache = caches.timing_place(artifacts.cache_folder(), backend.name, backend.version, gpu) if times else None
    began, damaged = caches.read(cache) if cache else (None, None)
    if damaged:
        log.add("WARNING", damaged)
    plan = builder.build_plan(
        backend, Path(request["graph"]), targets.find(request["target"]), options, log=log, timing_cache=began,
        task=_ToldTask(),
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
        "timing_cache": None if cache is None else ("used" if plan.times_used else "begun"),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _census(
    backend: Backend, request: dict[str, Any], told: dict[str, Any], log: BuildLog
) -> dict[str, Any]:  # fmt: skip
    """The kernels of the plan that was built, as the builder listed them."""
    own = kernels.parse(log.layers)
    if not own:
        note = f"{backend.name} {backend.version} lists no kernels in a form that is known here; there is no census."
        return {"census": None, "census_note": note}
    first, fixed = BuildOptions.from_dict(request["options"]).profiles[0], told["tensors"][0]["shape"][0]
    batch: int | None = first.optimum if fixed == -1 else fixed
    if not census.is_complete(own):
        batch = None
    sm = targets.find(request["target"]).sm
    found = census.of(
        own, backend=backend.name, version=backend.version, sm=sm, batch=batch, plan_bytes=told["plan_bytes"]
    )
    return {"census": found.to_dict(), "census_note": None}


def _peak_memory_bytes() -> int | None:
    """The most memory of the host that this process held; None where the system doesn't tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    # In KiB on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_when_alone(folder: Path) -> None:
    """Wait for the end of standard input, which the process that started this one holds open."""
    # Not through sys.stdin: Python aborts at its end if a thread still holds that object.
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class _ToldTask:
    """The builder's phases, told to the process that asked."""

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        _tell(phase=text, step=completed, steps=total)

    def advance(self, count: float = 1) -> None:
        raise NotImplementedError("builders tell where they are")


def _tell(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
