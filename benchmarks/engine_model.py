"""`python -m benchmarks.engine_model`: compare the model of an engine's time with published latencies on a T4.

Each network is written in plain torch, exported in float16, and compiled with TensorRT-RTX for sm_75; no GPU is needed.
The published figures are for TensorRT's or hand-written kernels: where those differ from TensorRT-RTX's, so do the
times. The table shows by how much, and the last line the rates with the smallest error; see docs/engine-model.md.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import minimize
from torch import nn

from benchmarks import published_networks
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import build, targets
from hemf_export.engines.census import FITTED_TO_T4, PEAKS, Census, Rates
from hemf_export.files.errors import HemfError

PIXELS = 224
OPSET = 20
MMDEPLOY = "MMDeploy, TensorRT 7.2.3.4"
PADDLE = "Paddle Inference 2.3, TensorRT 8.0.3.4"
FASTER = "FasterTransformer, CUDA 11.4"


@dataclass(frozen=True)
class Known:
    """Network with its published latencies.

    Args:
        make: builds the network.
        published_ms: latency on a T4 in float16, by source and batch size.
        fits: whether the rates are fitted to it; False if TensorRT-RTX's kernels are known to differ from the measured
            ones.
    """

    make: Callable[[], nn.Module]
    published_ms: Mapping[str, Mapping[int, float]]
    fits: bool = True


KNOWN = {
    "ResNet-50": Known(
        published_networks.resnet50, {MMDEPLOY: {1: 1.26}, PADDLE: {1: 1.3045, 2: 1.8964, 4: 3.1821}}
    ),
    # TensorRT has depthwise kernels; TensorRT-RTX expands them to dense convolutions.
    "MobileNetV2": Known(published_networks.mobilenet_v2, {PADDLE: {1: 0.5926, 2: 0.9131, 4: 1.4491}}, fits=False),
    "ViT-B/16": Known(published_networks.vit_b16, {FASTER: {1: 3.43, 8: 14.46, 16: 28.77, 32: 57.22}}),
    "Swin-T": Known(published_networks.swin_t, {FASTER: {1: 1.43, 8: 6.60, 16: 13.12, 32: 25.25}}),
}  # fmt: skip


def main() -> None:
    """Compile, model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(KNOWN))
    parser.add_argument("--keep", type=Path, help="folder for the ONNX files")
    arguments = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    fitted: list[tuple[Census, float]] = []
    ratios: list[float] = []
    for name in arguments.networks.split(","):
        known = KNOWN[name]
        with ConsoleProgress().task(f"Exporting {name}"):
            torch.manual_seed(0)
            graph = exported(known.make())
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            arguments.keep.joinpath(f"{name.replace('/', '-')}.onnx").write_bytes(graph)
        for batch in sorted({batch for figures in known.published_ms.values() for batch in figures}):
            with ConsoleProgress().task(f"Compiling {name} at batch {batch}"):
                try:
                    census = build.take_census(graph, targets.find("t4"), batch=batch)
                except HemfError as error:
                    console.warn(f"{name} at batch {batch}: {error}")
                    continue
            for source, figures in known.published_ms.items():
                if batch in figures:
                    rows.append(row(name, batch, census, figures[batch], source))
                    ratios.append(float(rows[-1][7]))
                    fitted += [(census, figures[batch])] if known.fits else []
    console.table(
        "Model and published latency on a T4, float16, ms",
        ("network", "batch", "kernels", "MB", "compute", "memory", "model", "by published", "fitted", "by published",
         "published", "by"),
        rows, words=(0, 11),
    )  # fmt: skip
    print(f"model by published: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    if len(fitted) > 3:
        print(fit(fitted))


def row(name: str, batch: int, census: Census, published: float, source: str) -> tuple[str, ...]:
    """Return a row of the table; times in milliseconds."""
    times, moved = census.kernel_times_s(targets.T4), census.moved_bytes
    peak, fitted = census.model_ms(targets.T4), census.model_ms(targets.T4, rates=FITTED_TO_T4)
    assert times is not None
    assert moved is not None
    assert peak is not None
    assert fitted is not None
    compute, memory = (1000 * sum(pair[index] for pair in times) for index in (0, 1))
    return (
        name, str(batch), str(census.launches), f"{moved / 1e6:.0f}", f"{compute:.2f}", f"{memory:.2f}", f"{peak:.2f}",
        f"{peak / published:.2f}", f"{fitted:.2f}", f"{fitted / published:.2f}", f"{published:.2f}", source,
    )  # fmt: skip


def fit(known: list[tuple[Census, float]]) -> str:
    """Describe the rates with the least squared error of the logarithm, its residual, and the errors of other rates."""

    def error(rates: Rates) -> float:
        logs = [math.log((census.model_ms(targets.T4, rates=rates) or 0) / published) for census, published in known]
        return math.sqrt(statistics.fmean(log**2 for log in logs))

    def loss(values: tuple[float, float, float]) -> float:
        return error(Rates(values[0], values[1], 1e-6 * values[2], overlapped=False)) if min(values) > 0 else math.inf

    best = minimize(loss, (0.4, 0.7, 3.0), method="Nelder-Mead")
    compute, memory, launch = best.x
    return (
        f"least error: {compute:.2f} of the peak of compute, {memory:.2f} of the bandwidth, {launch:.1f} µs a launch, "
        f"one after the other: {best.fun:.0%} (root mean square of the logarithm, {len(known)} figures); "
        f"FITTED_TO_T4 {error(FITTED_TO_T4):.0%}, PEAKS {error(PEAKS):.0%}"
    )


def exported(network: nn.Module, *, channels: int = 3, kind: torch.dtype = torch.float16) -> bytes:
    """Export the network to an ONNX file with a dynamic batch, in one type."""
    buffer = io.BytesIO()
    images = torch.zeros(2, channels, PIXELS, PIXELS, dtype=kind)
    program = torch.onnx.export(
        network.eval().to(kind), (images,), dynamo=True, opset_version=OPSET, verbose=False, input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
    )  # fmt: skip
    assert program is not None
    program.save(buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
