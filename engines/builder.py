"""One builder for TensorRT 10.12 and later, 11, and TensorRT-RTX: a strongly typed network from an ONNX file → a plan.

Runs in the worker process (`engines.worker`): a native parser that crashes takes only that with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.backends import Backend
from engines.batches import BatchProfile
from engines.targets import Target
from hemf.errors import MissingCapabilityError

_KEPT_ERRORS = 5

Progress = Callable[[str, int, int], None]  # phase, step, steps


class BuildFailedError(Exception):
    """The builder gave no plan; the message has its own last errors."""


def build_plan(
    backend: Backend, graph: Path, target: Target, profile: BatchProfile, *, workspace_bytes: int, progress: Progress
) -> bytes:
    """Parse `graph` and build the plan for `target`.

    Args:
        backend: which TensorRT.
        graph: an ONNX file with one input, whose types are what the engine computes in.
        target: GPU or compute capability.
        profile: batch sizes, where the graph leaves them open.
        workspace_bytes: limit of scratch memory.
        progress: told of each phase as it goes on.

    Raises:
        BuildFailedError: the graph can't be parsed or built; names the node where TensorRT does.
        MissingCapabilityError: this builder has no such target.
    """
    trt: Any = backend.module
    errors: list[str] = []
    logger = _logger(trt, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [
            f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in found
        ]
        raise BuildFailedError("; ".join((lines or errors)[:_KEPT_ERRORS]))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.progress_monitor = _monitor(trt, progress)
    _aim(trt, backend, config, target)
    optimization = builder.create_optimization_profile()
    tensor = network.get_input(0)
    sizes = tuple(tensor.shape)
    if sizes[0] == -1:
        shapes = [(batch, *sizes[1:]) for batch in (profile.minimum, profile.optimum, profile.maximum)]
        optimization.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(optimization)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailedError("; ".join(errors[-_KEPT_ERRORS:]) or "TensorRT gave no plan and no reason")
    return bytes(plan)


def _aim(trt: Any, backend: Backend, config: Any, target: Target) -> None:
    """Set what the plan runs on: a compute capability for RTX, any GPU of this one's for TensorRT."""
    if backend.name == "tensorrt":
        # Any T4 will do, not only the very board that builds.
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        return
    name = target.sm.replace("_", "").upper()
    known = trt.ComputeCapability.__members__
    if name not in known:
        listed = ", ".join(member for member in known if member.startswith("SM"))
        raise MissingCapabilityError(f"TensorRT-RTX {backend.version} builds for {listed}, not {name}.")
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(known[name], 0):
        raise MissingCapabilityError(f"TensorRT-RTX {backend.version} refuses the compute capability {name}.")


def _logger(trt: Any, errors: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                errors.append(message)

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            progress(phase, self.steps.get(phase, 0), self.steps.get(phase, 0))

    return Monitor()
