"""`python -m benchmarks.layer_times ENGINE --target t4`: compare kernel times on this GPU with the model's.

Needs the engine's GPU. Build the engine for one batch size, so that the kernels' sizes are known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hemf_export.bench.roofline import target_with_chip
from hemf_export.cli import console
from hemf_export.engines import layers, runtime
from hemf_export.engines.census import FITTED_TO_T4, PEAKS
from hemf_export.engines.device import CudaDevice
from hemf_export.pages import census_text


def main() -> None:
    """Measure, and print the kernels that differ most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--target", required=True, help="target whose published rates the model uses")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=layers.RUNS)
    parser.add_argument("--worst", type=int, default=20)
    arguments = parser.parse_args()
    _, chip = target_with_chip(arguments.target)
    loaded = runtime.deserialize(arguments.engine)
    census = census_text.of_manifest(loaded.manifest)
    if census is None:
        raise SystemExit(f"{arguments.engine} has no census: build it again.")
    times = layers.measure_times(loaded, CudaDevice(), arguments.batch, runs=arguments.runs)
    for name, rates in (("at the peaks", PEAKS), ("at the rates fitted to a T4", FITTED_TO_T4)):
        result = layers.compare_times(times, census, chip, arguments.batch, rates=rates)
        correlation = "–" if result.correlation is None else f"{result.correlation:.2f}"
        print(
            f"{name}: {result.matched} kernels, {result.measured_ms:.2f} ms measured, {result.modelled_ms:.2f} ms "
            f"modelled, correlation of ranks {correlation}; {result.unmatched} layers that the census doesn't name"
        )
    rows = [
        (one.kernel, f"{one.measured_ms:.4f}", f"{one.modelled_ms:.4f}") for one in result.kernels[: arguments.worst]
    ]
    console.table(f"largest differences {name}", ("kernel", "measured ms", "modelled ms"), rows)


if __name__ == "__main__":
    main()
