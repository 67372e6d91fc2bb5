"""The half of the fake TensorRT that builds: configuration, timing cache, plan.

It holds callers to the interface's rules. FAKE_TENSORRT_GATE names a file that a build waits for.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.engines.fake_network import (
    VERSIONS,
    BuilderFlag,
    Contents,
    HardwareCompatibilityLevel,
    INetworkDefinition,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    require_logger,
    say,
    told,
    write_plan,
)

_GATE_TIMEOUT_S = 240


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self._shapes[input] = [tuple(shape) for shape in (min, opt, max)]


class ITimingCache:
    """Times of kernels by their names, and of which TensorRT they are."""

    def __init__(self, version: str, times: dict[str, float]) -> None:
        self._version, self._times = version, times

    def serialize(self) -> memoryview:
        return memoryview(json.dumps({"version": self._version, "times": self._times}).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._version != self._version and not ignore_mismatch:
            return False
        self._times = {**input_cache._times, **self._times}
        return True


class IBuilderConfig:
    def __init__(self, version: str, logger: Any) -> None:
        self._version, self._logger = version, logger
        self._flags = {BuilderFlag.TF32}
        self._limits: dict[str, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._capabilities: list[str] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.builder_optimization_level = 3

    num_compute_capabilities = property(
        lambda self: len(self._capabilities), lambda self, count: self._capabilities.extend([""] * count)
    )

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if index >= len(self._capabilities):
            return False
        self._capabilities[index] = compute_capability.name
        return True

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[pool.name] = pool_size

    def set_flag(self, flag: Any) -> None:
        self._flags.add(BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(BuilderFlag(flag))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if not serialized_timing_cache:
            return ITimingCache(self._version, {})
        try:
            values = json.loads(serialized_timing_cache)
            return ITimingCache(values["version"], values["times"])
        except (ValueError, KeyError, TypeError):
            say(self._logger, "ERROR", "Failed to deserialize timing cache.")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache._version != self._version and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    _backend = "tensorrt"

    def __init__(self, logger: Any) -> None:
        self._logger, self._version = require_logger(logger), VERSIONS[self._backend]

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._version, self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> memoryview | None:
        say(self._logger, "VERBOSE", "Timing kernels")
        for _ in range(2):
            say(self._logger, "WARNING", "A fake warning.")
        wrong = self._wrong(network, config)
        if wrong:
            say(self._logger, "ERROR", wrong)
            return None
        if not self._steps(config.progress_monitor, len(network._layers)):
            return None
        flags = {flag.name for flag in config._flags}
        cache = config._cache or ITimingCache(self._version, {})
        known = {} if "DISABLE_TIMING_CACHE" in flags else cache._times
        kernels = [f"{layer.type.name} {layer.name} {layer.get_output(0).shape}" for layer in network._layers]
        hits = sum(kernel in known for kernel in kernels)
        cache._times = {**dict.fromkeys(kernels, 0.5), **cache._times}
        stripped = "STRIP_PLAN" in flags
        if config.profiling_verbosity.name == "DETAILED":
            say(self._logger, "VERBOSE", "\n".join(["Layers:", *self._listed(network, config)]))
        values = {
            "flags": sorted(flags), "hits": hits, "kernels": len(kernels), "workspace": config._limits["WORKSPACE"],
            "level": config.builder_optimization_level, "hardware": config.hardware_compatibility_level.name,
            "capabilities": config._capabilities, "structure": network._structure,
            "profiles": [next(iter(profile._shapes.values())) for profile in config._profiles],
            "tensors": [
                {"name": tensor.name, "mode": mode, "type": tensor.dtype.name, "shape": tensor.shape}
                for mode, tensors in (("INPUT", network._inputs), ("OUTPUT", network._outputs)) for tensor in tensors
            ],
            "layers": [
                [layer.name, layer.type.name, layer.get_output(0).dtype.name]
                for layer in network._layers if layer.type.name != "CONSTANT"
            ],
            "detailed": config.profiling_verbosity.name == "DETAILED",
        }  # fmt: skip
        return memoryview(
            write_plan(Contents(self._backend, self._version, values, b"" if stripped else network._graph))
        )

    def _listed(self, network: INetworkDefinition, config: IBuilderConfig) -> list[str]:
        """A line for each layer, as TensorRT 10 writes them: one kernel a layer, its batch told where only one is."""
        lines = []
        for layer in network._layers:
            tensor = layer.get_output(0)
            if layer.type.name == "CONSTANT":
                continue
            sizes = {shape[0] for profile in config._profiles for shape in next(iter(profile._shapes.values()))}
            shape = [next(iter(sizes)) if size == -1 and len(sizes) == 1 else size for size in tensor.shape]
            dtype = {"FLOAT": "Float", "HALF": "Half"}.get(tensor.dtype.name, tensor.dtype.name.capitalize())
            dimensions = ",".join(map(str, shape))
            lines.append(
                f"Name: {layer.name}, LayerType: {layer.type.name}, Inputs: [], Outputs: [ {{ Name: {tensor.name}, "
                f"Location: Device, Dimensions: [{dimensions}], Format/Datatype: {dtype} }}], TacticName: , "
                f"StreamId: 0, Metadata: [ONNX Layer: {layer.name}]"
            )
        return lines

    def _wrong(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        if told("no-memory"):
            return (
                "[defaultAllocator.cpp::allocate::57] Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"
            )
        if not network._flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1:
            return "Only strongly typed networks are built."
        for tensor in network._inputs:
            if -1 in tensor.shape and not config._profiles:
                return f"{tensor.name} has dynamic dimensions, but no optimization profile."
            for shape in (shape for profile in config._profiles for shape in profile._shapes[tensor.name]):
                if len(shape) != len(tensor.shape) or shape[1:] != tensor.shape[1:]:
                    return f"A profile's {shape} is no {tensor.shape}."
        return ""

    def _steps(self, monitor: Any, count: int) -> bool:
        gate = os.environ.get("FAKE_TENSORRT_GATE")
        monitor.phase_start("Building", None, count)
        end = time.monotonic() + _GATE_TIMEOUT_S
        while gate and not Path(gate).exists() and time.monotonic() < end:
            time.sleep(0.01)
        going = all(monitor.step_complete("Building", step) is True for step in range(count))
        monitor.phase_finish("Building")
        return going
