"""A stand-in for NVIDIA's `tensorrt` and `tensorrt_rtx`, which need a GPU: engines that run on the CPU, for tests."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hemf_export.engines import builder, runtime, targets
from hemf_export.engines.backends import Backend, BackendName
from hemf_export.engines.builder import BuildLog
from hemf_export.engines.machine import Machine
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.runner import EngineRunner
from hemf_export.files import artifacts
from hemf_export.files.progress import IDLE
from tests.conftest import PROJECT
from tests.engines import fake_flavours
from tests.engines.fake_cuda import CpuDevice
from tests.engines.fake_network import VERSIONS
from tests.engines.fake_records import records

MACHINE = Machine((7, 5), VERSIONS)
GPU = "Tesla T4"


@contextmanager
def installed(folder: Path | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Both flavours are there to import; in child processes as well, by way of `folder`. Nothing may be misused."""
    records.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tensorrt", "tensorrt-rtx"):
            module = fake_flavours.flavour(name)
            patch.setitem(sys.modules, module.__name__, module)
            if folder is not None:
                code = "import sys\nfrom tests.engines import fake_flavours\n"
                code += f"sys.modules[__name__] = fake_flavours.flavour({name!r})\n"
                (folder / f"{module.__name__}.py").write_text(code)
        if folder is not None:
            patch.syspath_prepend(PROJECT)
            patch.syspath_prepend(folder)
        yield patch
    assert records.misuse == [], records.misuse


def on_a_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int] = (7, 5)) -> None:
    """This process sees a GPU, which computes what the fake does; without `installed`, no TensorRT."""
    patch.setattr("hemf_export.engines.backends.gpu_capability", lambda: capability)
    patch.setattr("hemf_export.engines.backends.gpu_name", lambda: GPU)
    patch.setattr("hemf_export.engines.backends.cuda_major", lambda name: None)
    patch.setattr("hemf_export.engines.device.CudaDevice", CpuDevice)
    patch.setattr("torch.cuda.get_device_name", lambda: GPU)


def classifier(path: Path, *, raw: bool = False, batch: int | str = "n", weight: float = 1.0) -> Path:
    """An ONNX file: (N, 3, 8, 8) float32, or (N, 8, 8, 3) uint8 for raw pixels → three logits of the means."""
    shape, axes, kind = ([8, 8, 3], [1, 2], np.uint8) if raw else ([3, 8, 8], [2, 3], np.float32)
    products = np.array([[1, -2, 0.5], [0, 1, 3], [-1, 0.25, 1]], np.float32) * weight / (16 if raw else 1)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["wide"], "cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["wide", "axes"], ["means"], "pool", keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"], "head"),
        ],
        "means",
        [helper.make_tensor_value_info("images", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [batch, *shape])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.array(axes), "axes"), numpy_helper.from_array(products, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def engine(
    graph: Path, *, backend: BackendName = "tensorrt", profiles: tuple[str, ...] = ("1:2:4",),
    name: str = "m.t4.engine", manifest: bool = True, changes: dict[str, Any] | None = None, **options: Any,
) -> Path:  # fmt: skip
    """An engine beside `graph`, built in this process; with its manifest, some fields of it changed."""
    told = BuildOptions(profiles=tuple(map(BatchProfile.parse, profiles)), **options)
    module = Backend(backend, fake_flavours.flavour(backend))
    plan = builder.build_plan(module, graph, targets.find("t4"), told, log=BuildLog(io.StringIO()), task=IDLE)
    path = graph.with_name(name)
    artifacts.write_bytes(path, plan.data)
    if manifest:
        fields = {
            "kind": "engine", "parent": graph.name, "parent_sha256": artifacts.sha256(graph), "backend": backend,
            "backend_version": VERSIONS[backend], "target": "t4", "compute_capability": "sm_75",
            "version_compatible": told.version_compatible, "build": told.to_dict(),
        }  # fmt: skip
        artifacts.write_manifest(path, {**fields, **(changes or {})})
    return path


def load(path: Path, device: CpuDevice | None = None, *, trust: bool = False, **options: Any) -> EngineRunner:
    """The runner of an engine, on a machine with a T4 and both flavours."""
    loaded = runtime.deserialize(path, trust=trust, here=MACHINE)
    return EngineRunner(loaded, device or CpuDevice(), GPU, **options)
