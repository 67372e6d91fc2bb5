"""A plan that passed its preflight → a deserialized engine, ready for execution contexts.

To deserialize a plan is to run native code out of a file. So the very bytes that are given to TensorRT are hashed
first; a plan without a manifest, which only `trust` lets through, is first deserialized in a child process
(`python -m hemf_export.engines.runtime PLAN BACKEND`), which may crash alone.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hemf_export.engines import backends, machine, preflight
from hemf_export.engines.backends import Backend
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts, child
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import Bindings, ICudaEngine, ILogger

_PROBE_TIMEOUT_S = 300
_KEPT_MESSAGES = 20


@dataclass
class Loaded:
    """A deserialized engine.

    Args:
        path: the plan.
        backend: the TensorRT flavour that built it.
        engine: as TensorRT deserialized it.
        manifest: empty for a trusted plan without one.
        messages: TensorRT's latest warnings and errors.
        notes: what a user should know.
        keep: objects that have to live as long as the engine.
    """

    path: Path
    backend: Backend
    engine: ICudaEngine
    manifest: dict[str, Any]
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_MESSAGES))
    notes: tuple[str, ...] = ()
    keep: tuple[Any, ...] = ()

    def reason(self) -> str:
        """TensorRT's latest messages, on one line, for an error: where it fails, it returns no more than None."""
        return "; ".join(self.messages) or "it gives no reason"


def deserialize(path: Path, *, trust: bool = False, here: Machine | None = None) -> Loaded:
    """Check a plan and deserialize it.

    Args:
        path: the plan.
        trust: accept a plan without a manifest.
        here: this machine; looked at by default.

    Raises:
        BadInputError: not the file that its manifest describes, not a plan, or one that TensorRT refuses.
        MissingCapabilityError: it needs another TensorRT, GPU or platform than this machine has.
    """
    checked = preflight.look(path, here or machine.here(), trust=trust)
    if checked.refusal is not None:
        raise checked.refusal
    assert checked.header is not None, "a plan without a header is refused"
    backend = backends.load(checked.header.backend)
    data = path.read_bytes()
    expected = checked.manifest.get("sha256")
    if expected is None:
        _try_in_a_child(path, backend)
    elif hashlib.sha256(data).hexdigest() != expected:
        raise BadInputError(f"{path} was changed while it was read.", "Try again.")
    return _deserialize(path, data, backend, checked.manifest)


def _deserialize(path: Path, data: bytes, backend: Backend, manifest: dict[str, Any]) -> Loaded:
    trt = backend.bindings
    messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)

    def add(severity: str, message: str) -> None:
        if severity in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            messages.append(message)

    logger = backend.logger(add)
    runtime = trt.Runtime(logger)
    again = preflight.rebuild_call(manifest)
    notes: tuple[str, ...] = ()
    if backend.name == "tensorrt-rtx":
        rtx_runtime = cast("tensorrt_rtx_bindings.Runtime", runtime)
        validity, diagnostics = rtx_runtime.get_engine_validity(data)
        if validity == backend.rtx.EngineValidity.INVALID:
            raise MissingCapabilityError(
                f"{path}: TensorRT-RTX {backend.version} says that it can't run here (diagnostics {int(diagnostics)}). "
                f"{'; '.join(messages)}".strip(),
                f"Build it again here: {again}",
            )
        if validity == backend.rtx.EngineValidity.SUBOPTIMAL:
            notes = (f"TensorRT-RTX says that {path.name} is not the best for this GPU; build it again here: {again}",)
    if manifest.get("version_compatible"):
        # Allows the plan to run its own code on the host: only after its hash was compared with the manifest's.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        reason = "; ".join(messages) or "it gives no reason"
        message = f"{backend.name} {backend.version} can't load {path}: {reason}."
        if backends.lacks_memory(reason):
            raise HemfError(message, "Free memory of the GPU: end other programs on it, or run fewer models at once.")
        raise BadInputError(message, f"Build it again: {again}")
    keep: tuple[Any, ...] = (runtime, logger)
    if manifest.get("build", {}).get("stripped"):
        keep += _refit(trt, engine, logger, messages, path, manifest)
    return Loaded(path, backend, engine, manifest, messages, notes, keep)


def _refit(
    trt: Bindings, engine: ICudaEngine, logger: ILogger, messages: deque[str], path: Path, manifest: dict[str, Any]
) -> tuple[Any, ...]:
    """Refit a stripped engine with the weights of its graph, and return the objects that have to outlive it."""
    graph = path.parent / Path(str(manifest.get("parent"))).name  # whatever folder a manifest may name
    hint = "A stripped engine needs the ONNX file that it was built from, in its folder."
    if not graph.is_file():
        raise BadInputError(f"{path} has no weights, and {graph.name} is not beside it.", hint)
    if artifacts.sha256(graph) != manifest.get("parent_sha256"):
        raise BadInputError(f"{graph} is not the file that {path.name} was built from.", hint)
    refitter = trt.Refitter(engine, logger)
    weights = trt.OnnxParserRefitter(refitter, logger)
    if not weights.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        raise BadInputError(f"{path} can't take the weights of {graph}: {'; '.join(messages)}.", hint)
    return refitter, weights


def _try_in_a_child(path: Path, backend: Backend) -> None:
    command = child.command("hemf_export.engines.runtime", str(path.resolve()), backend.name)
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"{backend.name} doesn't come to an end with {path}.", "It is not a whole plan.") from error
    if done.returncode < 0:
        raise BadInputError(f"{backend.name} crashed (signal {-done.returncode}) on {path}.", "It is not a whole plan.")


def main(plan: str, name: str) -> int:
    """Deserialize a plan and drop the engine: only whether this process survives counts."""
    backend = backends.load("tensorrt" if name == "tensorrt" else "tensorrt-rtx")
    trt = backend.bindings
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    runtime.deserialize_cuda_engine(Path(plan).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
