"""The child of `export.simplify`: waits for `[source, target]`, two paths in JSON. Anything here may crash."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import onnxsim

from hemf_export.files import artifacts


def main() -> None:
    """Simplify the ONNX file `source` and write `target`; without any input, there is nothing to do."""
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
