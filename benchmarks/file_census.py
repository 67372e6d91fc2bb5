"""`python -m benchmarks.file_census FILE…`: count the kernels compiled from each file, with a model of their time.

No GPU is needed, and no engine is kept. FILE is any ONNX file with the types that the engine should compute in; the
modelled times of the others are relative to the first. `--by block` and `--by kind` show where the bytes are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.graphs import parse
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import build, targets
from hemf_export.engines.census import FITTED_TO_T4, Census
from hemf_export.files.errors import HemfError
from hemf_export.pages import census_text

COLUMNS = (
    "file", "for", "batch", "kernels", "activations MB", "weights MB", "products", "attention", "peaks ms", "ratio",
    "fitted ms", "ratio",
)  # fmt: skip


def main() -> None:
    """Count all, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--targets", default="sm_75", help="compute capabilities or products, separated by commas")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--backend", default="tensorrt-rtx", choices=("tensorrt-rtx", "tensorrt"))
    parser.add_argument("--chip", default="t4", help="chip whose rates the model uses for targets without rates")
    parser.add_argument("--by", choices=("block", "kind"), help="also show parts of each file")
    arguments = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    parts: list[tuple[str, Census]] = []
    first: dict[tuple[str, int], tuple[float, float]] = {}
    for path in arguments.files:
        names = _blocks(path)
        for name in arguments.targets.split(","):
            target = targets.find(name)
            chip = target.chip or targets.TARGETS[arguments.chip].chip or targets.T4
            for batch in map(int, arguments.batch.split(",")):
                with ConsoleProgress().task(f"Compiling {path.name} for {name} at batch {batch}"):
                    try:
                        census = build.take_census(path, target, arguments.backend, batch, blocks=names)
                    except HemfError as error:
                        console.warn(f"{path.name} for {name} at batch {batch}: {error}")
                        continue
                times = census.model_ms(chip) or 0.0, census.model_ms(chip, rates=FITTED_TO_T4) or 0.0
                rows.append((path.name, name, *_row(census, times, first.setdefault((name, batch), times))))
                parts.append((f"{path.name} for {name} at batch {batch}", census))
    console.table("Kernels as compiled, and the model of their time", COLUMNS, rows, words=(0, 1, 6))
    for title, census in parts if arguments.by else ():
        values = census.by_block if arguments.by == "block" else census.by_kind
        lines = census_text.part_rows({name: part.to_dict() for name, part in values.items()}, largest_first=True)
        console.results.print()
        console.table(f"{title}, by {arguments.by}", (arguments.by, *census_text.PART_COLUMNS), lines, words=(0, 3))


def _row(census: Census, times: tuple[float, float], first: tuple[float, float]) -> tuple[str, ...]:
    products = ", ".join(f"{count} {census_text.title_of(dtype)}" for dtype, count in census.products.items())
    sizes = ("–" if size is None else f"{size / 1e6:.0f}" for size in (census.activation_bytes, census.weight_bytes))
    return (
        str(census.batch), str(census.launches), *sizes, products,
        str(census.fused_attentions), f"{times[0]:.2f}", f"{times[0] / first[0]:.2f}", f"{times[1]:.2f}",
        f"{times[1] / first[1]:.2f}",
    )  # fmt: skip


def _blocks(path: Path) -> dict[str, str]:
    """Map each node's name to its block of the network."""
    return blocks(parse(onnx.load(path)).graph)


if __name__ == "__main__":
    main()
