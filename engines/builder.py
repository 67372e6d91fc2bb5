"""ONNX file → strongly typed network → plan, with TensorRT 10.12 and later, 11, or TensorRT-RTX.

Runs in a child process (see `engines.build_process`): a native parser that crashes takes only that with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from hemf_export.engines import kernels
from hemf_export.engines.backends import Backend
from hemf_export.engines.options import BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.files.errors import MissingCapabilityError
from hemf_export.files.progress import Task

if TYPE_CHECKING:
    import tensorrt_rtx_bindings
    from tensorrt_bindings import Bindings, IBuilderConfig, ILogger, INetworkDefinition, IProgressMonitor

_KEPT_ERRORS = 5
_KEPT_WARNINGS = 20


class BuildFailedError(Exception):
    """The builder returned no plan; the message holds its last errors."""


@dataclass
class BuildLog:
    """A builder's messages: all of them in a file, warnings and errors at hand.

    Args:
        file: receives every message as it comes.
        errors: in order.
        warnings: each once, in order.
        layers: lines that may belong to a list of the engine's layers (see `engines.kernels`), in order. They can't be
            read back from the file: another build of the same output may be writing it too.
    """

    file: TextIO
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def add(self, severity: str, message: str) -> None:
        """Add a message of `severity`: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""
        self.file.write(f"{severity}: {message}\n")
        self.file.flush()  # what was written survives a crash of the builder
        if kernels.may_list(message):
            self.layers += filter(kernels.may_list, message.splitlines())
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(message)
        elif severity == "WARNING" and message not in self.warnings and len(self.warnings) < _KEPT_WARNINGS:
            self.warnings.append(message)

    def reason(self) -> str:
        """The last errors, on one line."""
        return "; ".join(self.errors[-_KEPT_ERRORS:])


@dataclass(frozen=True)
class Plan:
    """A serialized engine, and what its build reported.

    Args:
        data: the plan, ready to be deserialized.
        tensors: I/O tensors: name, mode, type and shape, -1 for the batch.
        layers: number of layers by type and precision, of the network as parsed, before fusion.
        timing_cache: kernel timings, merged with those that the build began with; None where they are not kept.
        timing_cache_used: whether the build began with an earlier build's timings.
    """

    data: bytes
    tensors: list[dict[str, Any]]
    layers: dict[str, int]
    timing_cache: bytes | None = None
    timing_cache_used: bool = False


def build_plan(
    backend: Backend,
    graph: Path,
    target: Target,
    options: BuildOptions,
    *,
    log: BuildLog,
    timing_cache: bytes | None = None,
    task: Task,
) -> Plan:
    """Parse `graph` and build the plan for `target`.

    Args:
        backend: which TensorRT.
        graph: an ONNX file with one input; the engine computes in its types.
        target: GPU or compute capability.
        options: how to build, with `hardware_compatible` decided; profiles are used where the graph's batch is dynamic.
        log: receives the builder's messages.
        timing_cache: an earlier build's timings, empty for the first build; None to keep none, and to share timings
            within this build alone.
        task: updated with the builder's phases; its text is the one that advanced last.

    Raises:
        BuildFailedError: the graph can't be parsed or built; names the node where TensorRT does.
        MissingCapabilityError: this backend can't build for the target.
    """
    trt = backend.bindings
    logger = backend.logger(log.add)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, graph, log)
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, task)
    _configure(trt, config, options)
    _set_target(backend, config, target, options)
    tensor = network.get_input(0)
    sizes = tuple(tensor.shape)
    if sizes[0] == -1:
        for profile in options.profiles:
            optimization = builder.create_optimization_profile()
            shapes = [(batch, *sizes[1:]) for batch in (profile.minimum, profile.optimum, profile.maximum)]
            optimization.set_shape(tensor.name, *shapes)
            config.add_optimization_profile(optimization)
    timing_cache_used = bool(timing_cache)
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            log.add("WARNING", "TensorRT refuses the timing cache; a new one is begun.")
            config.set_timing_cache(config.create_timing_cache(b""), False)
            timing_cache_used = False
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailedError(log.reason() or "TensorRT gave no plan and no reason")
    measured = None if timing_cache is None else bytes(config.get_timing_cache().serialize())
    return Plan(bytes(plan), _tensors(network), _layers(network), measured, timing_cache_used)


def merge_timing_caches(backend: Backend, first: bytes, second: bytes, log: BuildLog) -> bytes:
    """Merge two timing caches of the same TensorRT and GPU; the second alone where TensorRT refuses the first."""
    trt = backend.bindings
    builder = trt.Builder(backend.logger(log.add))
    config = builder.create_builder_config()
    cache, other = config.create_timing_cache(second), config.create_timing_cache(first)
    if cache is None or other is None or not cache.combine(other, False):
        return second
    return bytes(cache.serialize())


def _parse(trt: Bindings, network: INetworkDefinition, logger: ILogger, graph: Path, log: BuildLog) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in errors]
    raise BuildFailedError("; ".join(lines[:_KEPT_ERRORS]) or log.reason())


def _configure(trt: Bindings, config: IBuilderConfig, options: BuildOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    # The engine inspector reports each layer's precision only then; the kernels are the same.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # Layers stay in float32 where float16 isn't safe: TF32 has no more mantissa bits than float16.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.stripped:
        # It is only ever refitted with the weights of its own graph, so the builder may rely on their values.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)


def _set_target(backend: Backend, config: IBuilderConfig, target: Target, options: BuildOptions) -> None:
    """Set the GPUs that the plan runs on: with TensorRT, all of this GPU's compute capability, or of its model."""
    if backend.name == "tensorrt":
        level = backend.bindings.HardwareCompatibilityLevel
        # SAME_COMPUTE_CAPABILITY "may decrease the performance", and takes no tactics of cuDNN and cuBLAS (NvInfer.h).
        config.hardware_compatibility_level = (
            level.NONE if options.hardware_compatible is False else level.SAME_COMPUTE_CAPABILITY
        )
        return
    name = target.sm.replace("_", "").upper()
    known = backend.rtx.ComputeCapability.__members__
    if name not in known:
        listed = ", ".join(member for member in known if member.startswith("SM"))
        raise MissingCapabilityError(
            f"TensorRT-RTX {backend.version} builds for {listed}, not {name}.",
            f"Build with `backend='tensorrt'` on a GPU of {target.sm}.",
        )
    rtx_config = cast("tensorrt_rtx_bindings.IBuilderConfig", config)
    rtx_config.num_compute_capabilities = 1
    if not rtx_config.set_compute_capability(known[name], 0):
        raise MissingCapabilityError(f"TensorRT-RTX {backend.version} refuses the compute capability {name}.")


def _tensors(network: INetworkDefinition) -> list[dict[str, Any]]:
    inputs = [("input", network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [("output", network.get_output(index)) for index in range(network.num_outputs)]
    return [
        {"name": tensor.name, "mode": mode, "type": tensor.dtype.name, "shape": list(tensor.shape)}
        for mode, tensor in inputs + outputs
    ]


def _layers(network: INetworkDefinition) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name != "CONSTANT" and layer.num_outputs:
            tensor = layer.get_output(0)
            counts[f"{layer.type.name} {tensor.dtype.name}"] += 1
    return dict(sorted(counts.items()))


def _monitor(trt: Bindings, task: Task) -> IProgressMonitor:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            task.update(0, steps, phase)

        def step_complete(self, phase: str, step: int) -> bool:
            task.update(step + 1, self.steps.get(phase, 0), phase)
            return True

        def phase_finish(self, phase: str) -> None:
            task.update(self.steps.get(phase, 0), self.steps.get(phase, 0), phase)

    return Monitor()
