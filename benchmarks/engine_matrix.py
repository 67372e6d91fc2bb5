"""`python -m benchmarks.engine_matrix FILE…`: build files for every target and batch profile with TensorRT-RTX.

No GPU is needed. Each row has an engine's size and build time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx_ir as ir

from hemf_export.calibration.graph_types import count_types
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import targets
from hemf_export.engines.build import build_engine
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.files.errors import HemfError
from hemf_export.models.model_file import OnnxFile

TARGETS = ("sm_75", "sm_86", "sm_89", "sm_120")
PROFILES = ("1:8:32", "1:1:1")


def main() -> None:
    """Build all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="ONNX file of ours, of any precision")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--batches", default=",".join(PROFILES))
    arguments = parser.parse_args()
    rows = []
    for path in arguments.files:
        described = OnnxFile.open(path).read_ours()[1]
        products = ", ".join(f"{n} {kind}" for kind, n in count_types(ir.load(path))["products"].items())
        for name in arguments.targets.split(","):
            for batches in arguments.batches.split(","):
                with ConsoleProgress().task(f"{path} for {name}, batches {batches}"):
                    outcome = build(path, targets.find(name), BatchProfile.parse(batches))
                rows.append((path.name, described.precision, described.input_type, name, batches, *outcome, products))
    console.table(
        "TensorRT-RTX engines",
        ("file", "precision", "input", "target", "batches", "size", "s", "products, from the graph"),
        rows,
    )


def build(graph: Path, target: targets.Target, profile: BatchProfile) -> tuple[str, str]:
    """Build an engine; return its size and seconds, or empty texts and a warning with the reason if it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine = build_engine(
                graph, Path(folder, "engine"), backend="tensorrt-rtx", target=target,
                options=BuildOptions(profiles=(profile,)), fields={},
            )  # fmt: skip
        except HemfError as error:
            console.warn(str(error))
            return "refused", ""
        return console.size(engine.path.stat().st_size), f"{engine.seconds:.0f}"


if __name__ == "__main__":
    main()
