"""`python -m benchmarks.engine_matrix FILE…`: every file built for every target and batch profile with TensorRT-RTX.

No GPU is needed. Each row says what was built, how large it is and how long it took, or why TensorRT refuses it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from engines import targets
from engines.batches import BatchProfile
from engines.build import build_engine
from engines.options import BuildOptions
from hemf.errors import HemfError
from hemf_export import console, onnx_file

TARGETS = ("sm_75", "sm_86", "sm_89", "sm_120")
PROFILES = ("1:8:32", "1:1:1")
_SHOWN = 70  # characters of a refusal


def main() -> None:
    """Build all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="ONNX file of ours, of any precision")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--batches", default=",".join(PROFILES))
    arguments = parser.parse_args()
    rows = []
    for path in arguments.files:
        described = onnx_file.read(path)[1]
        for name in arguments.targets.split(","):
            for batches in arguments.batches.split(","):
                with console.step(f"{path} for {name}, batches {batches}"):
                    outcome = build(path, targets.find(name), BatchProfile.parse(batches))
                rows.append((path.name, described.precision, described.input_type, name, batches, *outcome))
    console.table("TensorRT-RTX engines", ("file", "precision", "input", "target", "batches", "size", "s", "of"), rows)


def build(graph: Path, target: targets.Target, profile: BatchProfile) -> tuple[str, str, str]:
    """Size, seconds, and the precisions of the network's products; or nothing, and the reason."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine = build_engine(
                graph, Path(folder, "engine"), backend="tensorrt-rtx", target=target,
                options=BuildOptions(profiles=(profile,)), fields={},
            )  # fmt: skip
        except HemfError as error:
            return "refused", "", error.message[-_SHOWN:]
        layers: dict[str, int] = engine.manifest["network_layers"]
        products = [f"{count} {kind}" for kind, count in layers.items() if kind.startswith(("CONV", "MATRIX"))]
        return console.size(engine.path.stat().st_size), f"{engine.seconds:.0f}", ", ".join(products)


if __name__ == "__main__":
    main()
