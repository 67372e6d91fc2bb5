"""`make bench-precision`: measure the cost of making FP16 and INT8 files, against ModelOpt's AutoCast and inference.

Each measurement runs in its own process, so that it shares neither warm caches nor memory with others, and alternates
with what it is compared with. Ratios are to the first row of the same kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from benchmarks.processes import in_process
from hemf_export.calibration import image_set, trials
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import prepare
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import IDLE, Silent, Task
from hemf_export.images import folders, image_labels
from hemf_export.models import graph_source
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request

ROOT = Path(__file__).parent.parent
COMPARED_IMAGES = 64  # images for the logit differences of FP16 files from float32
RESAMPLES = 2000
BUDGET = 0.5  # percentage points
# Without a pass to record ranges, like ours; and with one on noise, AutoCast's default.
_AUTOCAST: dict[str, tuple[str, ...]] = {"AutoCast": (), "AutoCast, ranges of noise": ("--ranges",)}


@dataclass
class Measured:
    """Measurements of one row: seconds per round, peak memory, logit differences per image; 0 or None if not measured.

    Processor time shows the cost even on a busy machine. Differences are the mean over each image's logits, and the
    largest of all.
    """

    seconds: list[float] = field(default_factory=list)
    processor_s: float = 0.0
    peak_bytes: int = 0
    differences: NDArray[np.float64] | None = None
    largest: float = 0.0

    def row(self, name: str, first: Measured) -> tuple[str, ...]:
        """Return the cells of the row, with the median ratio to `first` over rounds."""
        ratio = statistics.median(own / its for own, its in zip(self.seconds, first.seconds, strict=True))
        processor = f"{self.processor_s / first.processor_s:.2f}" if self.processor_s and first.processor_s else ""
        difference = "" if self.differences is None else f"{self.largest:.1e}"
        mean = "" if self.differences is None else f"{self.differences.mean():.2e}{self._against(first)}"
        memory = f"{self.peak_bytes / 1e9:.2f}" if self.peak_bytes else ""
        return name, f"{statistics.median(self.seconds):.1f}", f"{ratio:.2f}", processor, difference, mean, memory

    def _against(self, first: Measured) -> str:
        """Return the ratio of the means with its 95 % interval over images, as text."""
        if self is first or self.differences is None or first.differences is None:
            return ""
        own, its = self.differences, first.differences
        drawn = np.random.default_rng(0).integers(0, len(own), (RESAMPLES, len(own)))
        low, high = np.percentile(own[drawn].mean(1) / its[drawn].mean(1), (2.5, 97.5))
        return f" ({own.mean() / its.mean():.2f}: {low:.2f} to {high:.2f})"


class Phases(Silent):
    """Progress that records the wall-clock and processor seconds of each outermost task by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self._depth = 0

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Time a task."""
        start, self._depth = _now(), self._depth + 1
        yield IDLE
        self._depth -= 1
        if not self._depth:
            now, before = _now(), self.seconds.get(text, (0.0, 0.0))
            self.seconds[text] = before[0] + now[0] - start[0], before[1] + now[1] - start[1]


def _now() -> tuple[float, float]:
    """Return wall-clock and processor seconds of this process."""
    return time.perf_counter(), time.process_time()


def export_seeded(classes: tuple[str, ...], output: Path) -> None:
    """Export hemf-base with random weights."""
    from benchmarks.export_speed import naive_weights  # imported here, as other processes don't need training code
    from hemf_export.checkpoints import checkpoint
    from hemf_export.export import onnx_export
    from hemf_export.images.images import Preprocess
    from hemf_export.networks.hemf.authors import convert, infer_config

    converted, _ = convert(naive_weights(0, len(classes)))
    saved = output.with_suffix(".pt")
    checkpoint.save(checkpoint.Checkpoint(infer_config(converted), classes, Preprocess(), converted), saved)
    onnx_export.export(saved, output, onnx_export.Options())


def make_fp16(source: Path, output: Path) -> float:
    """Make an FP16 file with the structural float32 islands; return the seconds from file to file."""
    start = time.perf_counter()
    model = prepare(onnx.load(source))  # timed, as is AutoCast's own preparation of the graph
    to_float16(model)
    ir.save(model, output)
    return time.perf_counter() - start


def make_int8(
    source: Path, folder: Path, count: int, output: Path, max_drop: float | None
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Run an INT8 calibration, optionally within a budget; return the seconds of its phases, and its images."""
    allowed = None if max_drop is None else Budget(max_drop)
    phases = Phases()
    request = Request(source, "int8", folder, output, count=count, budget=allowed, cache=None)
    made = quantize.make(request, phases)
    return phases.seconds, made.manifest["proof"]["calibration_images"]


def infer(source: Path, folder: Path, count: int) -> tuple[tuple[float, float], dict[str, Any]]:
    """Run the float32 graph on the calibration images; return the seconds, including decoding, and the images."""
    model, selected = _read(source, folder, count)
    start = _now()
    trials.logits(model, selected.calibration)
    end = _now()
    return (end[0] - start[0], end[1] - start[1]), selected.calibration.to_dict()


def logit_differences(source: Path, folder: Path, files: dict[str, Path]) -> dict[str, NDArray[np.float64]]:
    """Compute the differences of each file's logits (images, classes) from the float32 file's on held-out images.

    Float16 is emulated as a GPU rounds it: ONNX Runtime on a CPU computes most of such a graph in float32.
    """
    model, selected = _read(source, folder, COMPARED_IMAGES)
    images = selected.held_out.whole(COMPARED_IMAGES)
    reference = trials.logits(model, images).astype(np.float64)
    return {name: np.abs(trials.logits(_emulated(path), images) - reference) for name, path in files.items()}


def _emulated(path: Path) -> ir.Model:
    model = ir.load(path)
    common.ShapeInferencePass()(model)
    return emulate(model)


def _read(source: Path, folder: Path, count: int) -> tuple[ir.Model, image_set.Selection]:
    """Read the float32 graph and select the images as `precision.quantize.make` does."""
    read = graph_source.read(source)
    described = read.description
    classes = described.classes if image_labels.are_names(described.classes) else None
    return prepare(read.proto), image_set.select(folder, described.input, classes, count=count, batch=described.batch)


def autocast(peer: Path, source: Path, output: Path, *options: str) -> dict[str, Any] | str:
    """Run AutoCast; return its report, or why there is none, in one line."""
    if not peer.is_file():
        return "it isn't installed"
    script, report = Path(__file__).with_name("modelopt_peer.py"), output.with_suffix(".json")
    done = subprocess.run([peer, script, source, output, report, *options], capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    answer: dict[str, Any] = json.loads(report.read_text())
    return answer


def measure_fp16(source: Path, images: Path, rounds: int, peer: Path, scratch: Path) -> dict[str, Measured]:
    """Measure ours and AutoCast both ways, alternately; AutoCast is left out with a warning if it doesn't run."""
    measured, files, ways = {"FP16": Measured()}, {"FP16": scratch / "ours.onnx"}, dict(_AUTOCAST)
    for number in range(1, rounds + 1):
        with ConsoleProgress().task(f"FP16, round {number} of {rounds}"):
            measured["FP16"].seconds.append(in_process(make_fp16, source, files["FP16"])[0])
            for way, options in ways.items():
                path = scratch / f"peer{len(options)}.onnx"
                answer = autocast(peer, source, path, *options)
                if isinstance(answer, str):
                    console.warn(f"ModelOpt's AutoCast is missing from the table: {answer}.")
                    ways, measured, files = {}, {"FP16": measured["FP16"]}, {"FP16": files["FP16"]}
                    break
                name = f"FP16, ModelOpt {answer['version']} {way}"
                files[name] = path
                measured.setdefault(name, Measured()).seconds.append(answer["seconds"])
    with ConsoleProgress().task("Comparing logits"):
        for name, differences in in_process(logit_differences, source, images, files)[0].items():
            measured[name].differences, measured[name].largest = differences.mean(1), float(differences.max())
    return measured


def measure_int8(source: Path, images: Path, count: int, scratch: Path) -> tuple[dict[str, Measured], int]:
    """Measure float32 inference, INT8 without and with a budget by phases, and inference again, on how many images."""
    with ConsoleProgress().task("Float32 inference"):
        (before, images_run), peak = in_process(infer, source, images, count)
    int8: dict[str, Measured] = {}
    for name, max_drop in (("INT8", None), (f"INT8 within {BUDGET:g} points", BUDGET)):
        with ConsoleProgress().task(f"Calibrating {name}"):
            (phases, calibrated), int8_peak = in_process(
                make_int8, source, images, count, scratch / "int8.onnx", max_drop
            )
        if calibrated != images_run:
            raise SystemExit("INT8 was calibrated on other images than the float32 graph was run on.")
        clock, processor = (sum(own) for own in zip(*phases.values(), strict=True))
        int8[name] = Measured([clock], processor, int8_peak)
        int8 |= {f"  {name}: {phase}": Measured([own[0]], own[1]) for phase, own in phases.items()}
    with ConsoleProgress().task("Float32 inference again"):
        (after, _), _ = in_process(infer, source, images, count)
    # Both are shown, as they show how steady the machine was.
    plain = f"float32 inference ({before[0]:.1f} before, {after[0]:.1f} after)"
    inference = {plain: Measured([(before[0] + after[0]) / 2], (before[1] + after[1]) / 2, peak)}
    return inference | int8, images_run["images"]


def main() -> None:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="float32 ONNX file; by default hemf-base with random weights")
    parser.add_argument("--images", type=Path, default=ROOT / "examples" / "blood_cells", help="real images")
    parser.add_argument("--count", type=int, default=512, help="largest number of calibration images")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of FP16")
    parser.add_argument(
        "--peer", type=Path, default=ROOT / ".venv-modelopt" / "bin" / "python", help="Python with ModelOpt"
    )
    arguments = parser.parse_args()
    images = arguments.images
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source = arguments.model or scratch / "hemf-base.onnx"
        if arguments.model is None:
            pool = folders.any_images(images / "train" if (images / "train").is_dir() else images)
            with ConsoleProgress().task("Exporting hemf-base"):
                in_process(export_seeded, pool.classes or ("a", "b", "c"), source)
        fp16 = measure_fp16(source, images, arguments.rounds, arguments.peer, scratch)
        int8, count = measure_int8(source, images, arguments.count, scratch)
    rows = [own.row(name, next(iter(group.values()))) for group in (fp16, int8) for name, own in group.items()]
    few = ", all there are" if count < arguments.count else ""
    title = (
        f"{source.stem}, {usable_cores()} threads; FP16 without calibration: {arguments.rounds} rounds, logits of "
        f"{COMPARED_IMAGES} images; INT8: {count} images{few}"
    )
    columns = (
        "made or run",
        "seconds",
        "ratio",
        "of processor time",
        "logit diff",
        "mean (of FP16's: 95 %)",
        "peak GB",
    )
    console.table(title, columns, rows)


if __name__ == "__main__":
    main()
