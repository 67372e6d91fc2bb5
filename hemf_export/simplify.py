"""onnxsim, in a child process: if it crashes, only the simplification is lost.

The child sees the graph without its weights, which stand in as inputs, so it is quick and small whatever the model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from hemf import artifacts

WEIGHT_ELEMENTS = 1024  # initializers beyond this are weights: nothing that onnxsim could fold
TIMEOUT_S = 300


class SimplificationError(Exception):
    """onnxsim crashed, hung or gave no valid graph; the message says which."""


def simplify(model: ir.Model) -> ir.Model:
    """The simplified model, with the weights of `model` (not copied). `model` itself is left as it was.

    Raises:
        SimplificationError: it didn't work; go on with `model`.
    """
    graph = model.graph
    weights = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.size > WEIGHT_ELEMENTS
    }
    inputs = len(graph.inputs)
    for name, value in weights.items():
        graph.initializers.pop(name)
        graph.inputs.append(value)
    try:
        skeleton = ir.serde.serialize_model(model).SerializeToString()
    finally:
        del graph.inputs[inputs:]
        for value in weights.values():
            graph.register_initializer(value)
    simplified = ir.serde.deserialize_model(_run(skeleton))
    kept = [value for value in simplified.graph.inputs if value.name not in weights]
    stand_ins = [value for value in simplified.graph.inputs if value.name in weights]
    if len(kept) != inputs or len(simplified.graph.outputs) != len(graph.outputs):
        raise SimplificationError("its graph has other inputs or outputs")
    simplified.graph.inputs[:] = kept
    for value in stand_ins:
        assert value.name is not None
        if value.uses():
            value.const_value = weights[value.name].const_value
            simplified.graph.register_initializer(value)
    return simplified


def _run(skeleton: bytes) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="hemf-export-") as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        artifacts.write_bytes(source, skeleton)
        command = [sys.executable, "-m", "hemf_export.simplify_worker", str(source), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise SimplificationError(f"it took more than {TIMEOUT_S} s") from error
        if done.returncode != 0 or not target.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            reason = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
            raise SimplificationError(f"{reason}{': ' + lines[-1] if lines else ''}")
        return onnx.load(target)
