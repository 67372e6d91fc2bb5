"""Simplify a graph with onnxsim, in a child process: if it crashes, only the simplification is lost.

The child gets the graph without its weights, for which inputs stand in, so it is quick and small whatever the model.
Started early, it imports what it needs while its parent exports the graph. Run as a program, this module is the child.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import onnx
import onnx_ir as ir

from hemf_export.files import artifacts, child

WEIGHT_ELEMENTS = 1024  # larger initializers are weights, which onnxsim has nothing to fold of
TIMEOUT_S = 300


class SimplificationError(Exception):
    """onnxsim crashed, hung or gave no valid graph; the message says which."""


class Simplifier:
    """Child process that simplifies one graph; a context manager, which kills the child at its end."""

    def __init__(self) -> None:
        # The child's output goes to a file: a full pipe that nobody reads would block it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._child = subprocess.Popen(
            child.command("hemf_export.export.simplify"),
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
        """Simplify a model, sharing its weights with the result; `model` itself isn't changed.

        Raises:
            SimplificationError: it failed; `model` can be used instead.
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


def main() -> None:
    """Read `[source, target]`, two paths in JSON, from standard input; simplify the one and write the other."""
    import onnxsim

    request = sys.stdin.read()
    if not request:
        return
    source, target = json.loads(request)
    simplified, valid = onnxsim.simplify(onnx.load(source))
    if not valid:
        raise SystemExit("onnxsim says that its result is not valid")
    artifacts.write_bytes(Path(target), simplified.SerializeToString())


if __name__ == "__main__":
    main()
