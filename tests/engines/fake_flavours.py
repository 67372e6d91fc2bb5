"""The fake TensorRT as modules: what each flavour has. Imported by child processes as well, so nothing else is here."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import ModuleType

from tests.engines import fake_builder, fake_execution, fake_network, fake_runtime

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_ONLY_RTX = {
    "ComputeCapability", "EngineValidity", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy",
    "IRuntimeCache",
}  # fmt: skip


def flavour(name: str) -> ModuleType:
    """A module like `tensorrt`, or like `tensorrt_rtx`."""
    module = ModuleType(_MODULES[name])
    module.__spec__ = ModuleSpec(_MODULES[name], None)  # torch.export looks for it in whatever it finds imported
    for part in (fake_network, fake_builder, fake_execution, fake_runtime):
        own = {
            key: value
            for key, value in vars(part).items()
            if isinstance(value, type) and value.__module__ == part.__name__
        }
        module.__dict__.update(
            {key: value for key, value in own.items() if name == "tensorrt-rtx" or key not in _ONLY_RTX}
        )
    module.__dict__["__version__"] = fake_network.VERSIONS[name]
    module.__dict__["Builder"] = type("Builder", (fake_builder.Builder,), {"_backend": name})
    module.__dict__["Runtime"] = fake_runtime.Runtime if name == "tensorrt" else fake_runtime.RtxRuntime
    return module
