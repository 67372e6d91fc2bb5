"""Small models to serve: plans that have only a header and a manifest, and ONNX files whose logits are means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BuildOptions
from hemf_export.files import artifacts
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import SourceSize
from hemf_export.models import onnx_model
from hemf_export.models.description import Description
from tests.conftest import CLASSES
from tests.engines import test_preflight

SIDE = 8
VERSIONS = {"tensorrt": (10, 16, 1, 11), "tensorrt-rtx": (1, 7, 1, 116)}
TAGS = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}


def described(
    precision: str = "fp32", input_type: str = "float32", batch: int | None = None, source: SourceSize | None = None
) -> Description:
    return Description(
        "means", CLASSES, Preprocess.for_size(SIDE), precision, input_type, batch, "c" * 64, {"torch": "2.13.0"}, source
    )  # type: ignore[arg-type]


def plan(
    path: Path, *, flavour: str = "tensorrt", profiles: tuple[str, ...] = ("1:4:16",), precision: str = "fp16",
    raw: bool = False, golden: int = 2, **changes: Any,
) -> Path:  # fmt: skip
    """A plan that no TensorRT would take, with all that is written beside a real one."""
    test_preflight.plan(path, TAGS[flavour], VERSIONS[flavour])
    batch = int(profiles[0]) if profiles[0].isdigit() else None
    image = [SIDE, SIDE, 3] if raw else [3, SIDE, SIDE]
    lead = batch or -1
    fields = {
        "kind": "engine", "parent": "m.onnx", "parent_sha256": "a" * 64, "backend": flavour,
        "backend_version": ".".join(map(str, VERSIONS[flavour])), "target": "t4", "compute_capability": "sm_75",
        "version_compatible": False, "build": {**BuildOptions().to_dict(), "profiles": list(profiles)},
        "tensors": [
            {"name": "images", "mode": "input", "type": "UINT8" if raw else "FLOAT", "shape": [lead, *image]},
            {"name": "logits", "mode": "output", "type": "FLOAT", "shape": [lead, len(CLASSES)]},
        ],
        **described(precision, "uint8" if raw else "float32", batch).to_dict(),
    }  # fmt: skip
    if golden:
        pixels = np.random.default_rng(0).integers(0, 256, (golden, SIDE, SIDE, 3), dtype=np.uint8)
        fields["golden"] = Golden(pixels, np.zeros((golden, len(CLASSES)), np.float32), "scans", 0.01).write(path)
    artifacts.write_manifest(path, {**fields, **changes})
    return path


def means(
    path: Path, *, raw: bool = False, batch: int | None = None, scale: float = 1.0, source: SourceSize | None = None,
    **fields: Any,
) -> Path:  # fmt: skip
    """An ONNX file of ours: logits are the channels' means times `scale`."""
    taken = described(input_type="uint8" if raw else "float32", source=source).input
    shape, axes = ([taken.height, taken.width, 3], [1, 2]) if raw else ([3, SIDE, SIDE], [2, 3])
    kind = onnx.TensorProto.UINT8 if raw else onnx.TensorProto.FLOAT
    lead: int | str = batch or "batch"
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("ReduceMean", ["wide", "axes"], ["means"], keepdims=0),
            onnx.helper.make_node("Mul", ["means", "scale"], ["logits"]),
        ],
        "means",
        [onnx.helper.make_tensor_value_info("images", kind, [lead, *shape])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [lead, 3])],
        [
            onnx.numpy_helper.from_array(np.array(axes), "axes"),
            onnx.numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        ],
    )
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9))
    description = described(input_type="uint8" if raw else "float32", batch=batch, source=source)
    onnx_model.describe(model, description)
    ir.save(model, path)
    artifacts.write_manifest(path, {"kind": "onnx", "parent": "m.pt", **description.to_dict(), **fields})
    return path
