"""Write the stubs of TensorRT's bindings that mypy checks the code against: `python -m tests.typings.generate FOLDER`.

FOLDER holds a JSON file for each published binding: its classes, and the public members of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

STUBS = Path(__file__).parent
USED = (
    "Builder", "BuilderFlag", "ComputeCapability", "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy", "EngineInspector", "EngineValidity",
    "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "ILayer", "ILogger",
    "INetworkDefinition", "IOptimizationProfile", "IProfiler", "IProgressMonitor", "IRuntimeCache", "IRuntimeConfig",
    "ITensor", "ITimingCache", "LayerInformationFormat", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserRefitter", "ParserError", "ProfilingVerbosity", "Refitter", "Runtime",
)  # fmt: skip
# What calls give, where their members are used again.
GIVEN = {
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache | None",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext | None",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("ILayer", "get_output"): "ITensor",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("IRuntimeConfig", "create_runtime_cache"): "IRuntimeCache",
    ("OnnxParser", "get_error"): "ParserError",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine | None",
}

Names = Mapping[str, frozenset[str]]


def names(path: Path) -> Names:
    """The classes of a binding that are used, and the members of each."""
    known = json.loads(path.read_text())
    return {name: frozenset(known[name]) for name in USED if isinstance(known.get(name), list)}


def common(bindings: list[Names]) -> Names:
    """What all of them have."""
    first, *others = bindings
    return {
        name: members.intersection(*(other[name] for other in others))
        for name, members in first.items()
        if all(name in other for other in others)
    }


def stub(binding: Names, of: str) -> str:
    """A module of stubs: a class for each class, and `Bindings` for the module itself."""
    lines = [f'"""{of}. Written by tests/typings/generate.py."""', "", "from typing import Any, Protocol", ""]
    for name, members in sorted(binding.items()):
        lines += [f"class {name}:", "    def __init__(self, *arguments: Any) -> None: ..."]
        if "name" in members and "value" in members:
            lines.append("    __members__: dict[str, Any]")
        for member in sorted(members):
            given = GIVEN.get((name, member))
            known = given is not None and given.split(" ")[0] in binding
            lines.append(f"    def {member}(self, *arguments: Any) -> {given}: ..." if known else f"    {member}: Any")
        lines.append("")
    lines += ["class Bindings(Protocol):", "    __version__: str"]
    for name in sorted(binding):
        lines += ["    @property", f"    def {name}(self) -> type[{name}]: ..."]
    return "\n".join(lines) + "\n"


def stubs(folder: Path) -> dict[str, str]:
    """The text of each stub file, from the published bindings in `folder`."""
    paths = sorted(folder.glob("*.json"))
    (rtx,) = (path for path in paths if "rtx" in path.name)
    versions = ", ".join(path.stem for path in paths)
    return {
        "tensorrt_bindings.pyi": stub(common([names(path) for path in paths]), f"What is the same in {versions}"),
        "tensorrt_rtx_bindings.pyi": stub(names(rtx), f"The bindings of {rtx.stem}"),
    }


if __name__ == "__main__":
    for file_name, text in stubs(Path(sys.argv[1])).items():
        (STUBS / file_name).write_text(text)
