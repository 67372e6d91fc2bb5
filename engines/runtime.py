"""A plan that passed its preflight → an engine of TensorRT that is ready for contexts.

To deserialize a plan is to run native code out of a file. So the very bytes that are given to TensorRT are hashed
first; a plan without a manifest, which only `trust` lets through, is tried in a child process before.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hemf_export.engines import backends, machine, messages, preflight
from hemf_export.engines.backends import Backend
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts, child
from hemf_export.files.errors import BadInputError, MissingCapabilityError

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import Bindings, ICudaEngine, ILogger

_PROBE_TIMEOUT_S = 300
_KEPT_MESSAGES = 20


@dataclass
class Loaded:
    """A deserialized engine.

    Args:
        path: of the plan.
        backend: whose it is.
        engine: what TensorRT made of it.
        manifest: empty for a trusted plan without one.
        messages: what TensorRT warns of, and its errors, as they come.
        notes: what a user should know.
        keep: what has to live as long as the engine.
    """

    path: Path
    backend: Backend
    engine: ICudaEngine
    manifest: dict[str, Any]
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_MESSAGES))
    notes: tuple[str, ...] = ()
    keep: tuple[Any, ...] = ()


def deserialize(path: Path, *, trust: bool = False, here: Machine | None = None) -> Loaded:
    """Check a plan, and deserialize it.

    Args:
        path: of the plan.
        trust: take a plan without a manifest.
        here: this machine; looked at by default.

    Raises:
        BadInputError: not the file that its manifest describes, not a plan, or one that TensorRT doesn't take.
        MissingCapabilityError: it is for another TensorRT, GPU or machine.
    """
    looked = preflight.look(path, here or machine.here(), trust=trust)
    if looked.refusal is not None:
        raise looked.refusal
    assert looked.header is not None, "a plan without a header is refused"
    backend = backends.load(looked.header.backend)
    data = path.read_bytes()
    known = looked.manifest.get("sha256")
    if known is None:
        _try_in_a_child(path, backend)
    elif hashlib.sha256(data).hexdigest() != known:
        raise BadInputError(f"{path} was changed while it was read.", "Try again.")
    return _deserialize(path, data, backend, looked.manifest)


def _deserialize(path: Path, data: bytes, backend: Backend, manifest: dict[str, Any]) -> Loaded:
    trt = backend.bindings
    said: deque[str] = deque(maxlen=_KEPT_MESSAGES)

    def add(severity: str, message: str) -> None:
        if severity in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            said.append(message)

    logger = messages.logger(trt, add)
    runtime = trt.Runtime(logger)
    again = preflight.rebuild_call(manifest)
    notes: tuple[str, ...] = ()
    if backend.name == "tensorrt-rtx":
        rtx_runtime = cast("tensorrt_rtx_bindings.Runtime", runtime)
        validity, diagnostics = rtx_runtime.get_engine_validity(data)
        if validity == backend.rtx.EngineValidity.INVALID:
            raise MissingCapabilityError(
                f"{path}: TensorRT-RTX {backend.version} says that it can't run here (diagnostics {int(diagnostics)}). "
                f"{'; '.join(said)}".strip(),
                f"Build it again here: {again}",
            )
        if validity == backend.rtx.EngineValidity.SUBOPTIMAL:
            notes = (f"TensorRT-RTX says that {path.name} is not the best for this GPU; build it again here: {again}",)
    if manifest.get("version_compatible"):
        # Lets the plan run code of its own on the host: only ever after its hash was seen to be the manifest's.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BadInputError(
            f"{backend.name} {backend.version} can't load {path}: {'; '.join(said) or 'it gives no reason'}.",
            f"Build it again: {again}",
        )
    keep: tuple[Any, ...] = (runtime, logger)
    if manifest.get("build", {}).get("stripped"):
        keep += _refit(trt, engine, logger, said, path, manifest)
    return Loaded(path, backend, engine, manifest, said, notes, keep)


def _refit(
    trt: Bindings, engine: ICudaEngine, logger: ILogger, said: deque[str], path: Path, manifest: dict[str, Any]
) -> tuple[Any, ...]:
    """Give a stripped engine the weights of the graph that it was built from; what has to be kept."""
    graph = path.parent / Path(str(manifest.get("parent"))).name  # whatever folder a manifest may name
    hint = "A stripped engine needs the ONNX file that it was built from, in its folder."
    if not graph.is_file():
        raise BadInputError(f"{path} has no weights, and {graph.name} is not beside it.", hint)
    if artifacts.sha256(graph) != manifest.get("parent_sha256"):
        raise BadInputError(f"{graph} is not the file that {path.name} was built from.", hint)
    refitter = trt.Refitter(engine, logger)
    weights = trt.OnnxParserRefitter(refitter, logger)
    if not weights.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        raise BadInputError(f"{path} can't take the weights of {graph}: {'; '.join(said)}.", hint)
    return refitter, weights


def _try_in_a_child(path: Path, backend: Backend) -> None:
    command = child.command("hemf_export.engines.plan_probe", str(path.resolve()), backend.name)
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"{backend.name} doesn't come to an end with {path}.", "It is not a whole plan.") from error
    if done.returncode < 0:
        raise BadInputError(f"{backend.name} crashed (signal {-done.returncode}) on {path}.", "It is not a whole plan.")
