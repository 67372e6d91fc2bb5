"""onnxsim, in a child process: if it crashes, only the simplification is lost.

The child sees the graph without its weights, which stand in as inputs, so it is quick and small whatever the model.
Started early, it imports what it needs while its parent exports the graph.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from types import TracebackType

import onnx
import onnx_ir as ir

from hemf_export.files import artifacts, child

WEIGHT_ELEMENTS = 1024  # initializers beyond this are weights: nothing that onnxsim could fold
TIMEOUT_S = 300


class SimplificationError(Exception):
    """onnxsim crashed, hung or gave no valid graph; the message says which."""


class Simplifier:
    """A child process that waits for one graph to simplify. A context manager: at its end the child is gone."""

    def __init__(self) -> None:
        # The child's words go to a file: a pipe that nobody reads would stop it once it is full.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._child = subprocess.Popen(
            child.command("hemf_export.export.simplify_worker"),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def __enter__(self) -> Simplifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()
        self._log.close()

    def simplify(self, model: ir.Model) -> ir.Model:
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
        simplified = ir.serde.deserialize_model(self._run(skeleton))
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

    def _run(self, skeleton: bytes) -> onnx.ModelProto:
        with artifacts.scratch() as folder:
            source, target = folder / "in.onnx", folder / "out.onnx"
            artifacts.write_bytes(source, skeleton)
            try:
                self._child.communicate(json.dumps([str(source), str(target)]), timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise SimplificationError(f"it took more than {TIMEOUT_S} s") from error
            code = self._child.returncode
            if code != 0 or not target.exists():
                self._log.seek(0)
                lines = self._log.read().decode(errors="replace").strip().splitlines()
                reason = f"signal {-code}" if code < 0 else f"exit {code}"
                raise SimplificationError(f"{reason}{': ' + lines[-1] if lines else ''}")
            return onnx.load(target)
