"""Small graphs that the real TensorRT-RTX builds in a fraction of a second, without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hemf_export.engines import build, targets
from hemf_export.engines.options import BatchProfile, BuildOptions

OPTIONS = BuildOptions(profiles=(BatchProfile(1, 2, 4),))


def tiny_graph(path: Path, dtype: type = np.float16, operator: str = "MatMul") -> Path:
    """A product of (N, 16) with a weight. TensorRT-RTX has none in float32 for sm_75."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], name="the_node")], "g",
        [helper.make_tensor_value_info("x", element, ["n", 16])],
        [helper.make_tensor_value_info("y", element, ["n", 16])],
        [numpy_helper.from_array(np.ones((16, 16), dtype), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def make(graph: Path, output: Path, **changes: object) -> build.Engine:
    """Build an engine with TensorRT-RTX for a T4, in a child process."""
    settings = {"backend": "tensorrt-rtx", "target": targets.find("t4"), "options": OPTIONS, "fields": {}}
    return build.build_engine(graph, output, **{**settings, **changes})


def script(folder: Path, code: str) -> Path:
    """A program to run in place of Python, as a child process that misbehaves."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path
