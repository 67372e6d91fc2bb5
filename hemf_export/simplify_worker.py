"""The child of `hemf_export.simplify`: `python -m hemf_export.simplify_worker IN OUT`. Anything here may crash."""

from __future__ import annotations

import sys
from pathlib import Path

from hemf import artifacts


def main(source: str, target: str) -> None:
    """Simplify the ONNX file `source` and write `target`."""
    import onnx
    import onnxsim

    simplified, valid = onnxsim.simplify(onnx.load(source))
    if not valid:
        raise SystemExit("onnxsim says that its result is not valid")
    artifacts.write_bytes(Path(target), simplified.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
