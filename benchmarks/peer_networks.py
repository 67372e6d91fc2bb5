"""`python -m benchmarks.peer_networks`: what becomes of every registered network, in one table.

    python -m benchmarks.peer_networks [--only biformer-base,…] [--baseline] [--out FILE.md]

Each network, with its authors' initialization, is exported, compared with PyTorch at several batch sizes, converted to
FP16 by structure and compiled for sm_75 by TensorRT-RTX, which needs no GPU. With --baseline the same weights in a
plain transcription of the authors' code (`benchmarks/plain/`) go through torch.onnx.export and the same compiler, and
ONNX Runtime runs both in turn, at batch 1: in float32, and as FP16 files, where it computes in float32 all the same.

A process for each network returns its memory. Finished rows are kept in FILE.json, and only what is missing is made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from hemf_export.calibration import emulation, forms
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import prepare
from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import build as engine_files
from hemf_export.engines import targets
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.files.errors import HemfError
from hemf_export.images.images import Preprocess
from hemf_export.models.runners import OnnxRunner, Runner, TorchRunner
from hemf_export.networks import registry
from hemf_export.pages.table import markdown_table
from hemf_export.timing import measurement
from hemf_export.timing.measurement import Contender
from hemf_export.timing.workloads import HostWorkload

BATCHES = (1, 2, 3, 5)
TARGET = "sm_75"
OPSET = 20
SECONDS = 40.0  # of timing, for each pair of files

COLUMNS = (
    "network", "M parameters", "export s", "ONNX nodes", f"parity at batches {', '.join(map(str, BATCHES))}",
    "FP16 from float32", "layers", "kernels", "attentions", "engine MB", "build s", "build peak MB", "modelled ms",
)  # fmt: skip
BASELINE_COLUMNS = (
    "plain nodes", "plain kernels", "plain modelled ms", "float32 on a CPU, ours / plain", "FP16 file on a CPU",
)  # fmt: skip


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of networks, separated by commas; by default all")
    parser.add_argument("--out", type=Path, default=Path("peer_networks.md"), metavar="FILE.md")
    parser.add_argument("--baseline", action="store_true", help="measure the plain transcriptions too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing, for each pair of files")
    parser.add_argument("--one", metavar="NETWORK", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kept = arguments.out.with_suffix(".json")
    if arguments.one:
        measure(arguments.one, kept, baseline=arguments.baseline, seconds=arguments.seconds)
        return
    names = arguments.only.split(",") if arguments.only else list(registry.SIZES)
    for name in names:
        registry.registered(name)  # an unknown name ends here
    for number, name in enumerate(names, 1):
        if not _missing(_read(kept).get(name, {}), name, baseline=arguments.baseline):
            continue
        console.say(f"{number} of {len(names)}: {name}")
        options = ["--baseline"] if arguments.baseline else []
        command = [sys.executable, "-m", "benchmarks.peer_networks", "--one", name, "--out", str(arguments.out)]
        done = subprocess.run([*command, *options, "--seconds", str(arguments.seconds)], check=False)
        if done.returncode:
            console.warn(f"{name}: its process ended with {done.returncode}.")
    rows = _read(kept)
    shown = [_cells(name, rows[name], baseline=arguments.baseline) for name in names if name in rows]
    columns = (*COLUMNS, *(BASELINE_COLUMNS if arguments.baseline else ()))
    artifacts.write_bytes(arguments.out, "\n".join([*markdown_table(columns, shown), ""]).encode())
    console.say(f"{arguments.out}: {len(shown)} of {len(names)} networks")


def measure(name: str, kept: Path, *, baseline: bool, seconds: float) -> None:
    """Measure one network and keep each part as soon as it is known; an error is kept in the place of its part."""
    shown = ConsoleProgress()
    config = registry.registered(name)
    model = registry.build(config, seed=0).eval()
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(name, model, Path(folder), seconds, shown)
        row = _read(kept).get(name, {})
        for part in _missing(row, name, baseline=baseline):
            try:
                with shown.task(f"{name}: {part}"):
                    row[part] = PARTS[part](work)
            except (HemfError, RuntimeError, ValueError) as error:
                row[part] = {"error": str(error).splitlines()[0]}
                console.warn(f"{name}, {part}: {row[part]['error']}")
            artifacts.write_json(kept, {**_read(kept), name: row})


class _Work:
    """A network, and the files made from it, each once.

    Args:
        name: name of its configuration.
        model: the network, with its initial weights; never folded.
        folder: where its files are.
        seconds: time for each pair of files.
        progress: receives the steps.
    """

    def __init__(self, name: str, model: Any, folder: Path, seconds: float, progress: ConsoleProgress) -> None:
        self.name, self.model, self.folder, self.seconds, self.progress = name, model, folder, seconds, progress
        self.config = model.config
        self.preprocess = Preprocess.for_size(self.config.image_size)
        self._made: dict[str, Path] = {}

    def path(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the path of a file that `make` writes at the first call."""
        if name not in self._made:
            path = self.folder / name
            make(path)
            self._made[name] = path
        return self._made[name]

    def pixels(self, count: int) -> NDArray[np.uint8]:
        """Images of noise, (N, H, W, 3)."""
        size = self.config.image_size
        return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def ours(self) -> Path:
        """Return our float32 file."""
        return self.path("ours.onnx", self._export)

    def _export(self, path: Path) -> None:
        source = self.folder / "ours.pt"
        classes = tuple(f"class {index}" for index in range(self.config.num_classes))
        checkpoint.save(Checkpoint(self.config, classes, self.preprocess, self.model.state_dict()), source)
        # The comparison is a column of the table, whatever it says.
        onnx_export.export(source, path, onnx_export.Options(tolerance=math.inf), progress=self.progress)

    def plain(self) -> Path:
        """Return the plain network's float32 file, as torch exports it for a dynamic batch."""
        return self.path("plain.onnx", self._export_plain)

    def _export_plain(self, path: Path) -> None:
        network = _plain(self.config).eval()
        unused = registry.family_of(self.config).layout.unused(self.config)
        result = network.load_state_dict(self.model.state_dict(), strict=False)
        unknown = [name for name in result.missing_keys if name not in unused]
        if unknown or result.unexpected_keys:
            raise ValueError(f"The plain network has other tensors: {(unknown + result.unexpected_keys)[:3]}.")
        size = self.config.image_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (torch.zeros(2, 3, size, size),), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
        assert program is not None
        onnx.save(program.model_proto, path)

    def half(self, source: Path, form: forms.Form) -> Path:
        """Return the FP16 file by structure of a float32 file, in the form for a backend."""

        def make(path: Path) -> None:
            model = prepare(onnx.load(source))
            forms.rewrite(model, form)
            to_float16(model)
            ir.save(model, path)

        return self.path(f"{source.stem}.{form}.fp16.onnx", make)


def _plain(config: Any) -> nn.Module:
    module = importlib.import_module(f"benchmarks.plain.{config.FAMILY}")
    network: nn.Module = module.build(config)
    return network


def _export(work: _Work) -> dict[str, Any]:
    started = time.perf_counter()
    path = work.ours()
    seconds = time.perf_counter() - started
    return {
        "parameters": sum(parameter.numel() for parameter in work.model.parameters()),
        "seconds": seconds,
        "nodes": len(onnx.load(path).graph.node),
        "parity": _differences(work, OnnxRunner(path), BATCHES),
    }


def _differences(work: _Work, runner: Runner, batches: tuple[int, ...]) -> dict[str, Any]:
    """Compare a runner's logits with PyTorch's: largest difference at each batch size, and largest logit."""
    reference = TorchRunner(work.model)
    largest, found = 0.0, {}
    for count in batches:
        batch = work.preprocess.normalize(work.pixels(count))
        expected = reference.infer(batch)
        found[str(count)] = float(np.abs(runner.infer(batch) - expected).max())
        largest = max(largest, float(np.abs(expected).max()))
    return {"differences": found, "largest_logit": largest}


def _engine(work: _Work) -> dict[str, Any]:
    half = work.half(work.ours(), "tensorrt-rtx")
    compared = _differences(work, OnnxRunner(emulation.of_file(onnx.load(half))), (2,))
    engine = engine_files.build_engine(
        half, work.folder / "ours.engine", backend="tensorrt-rtx", target=targets.find(TARGET),
        options=BuildOptions(profiles=(BatchProfile(1, 1, 1),)), fields={}, progress=work.progress,
    )  # fmt: skip
    return {**_counts(engine.census), "fp16": compared, "layers": sum(engine.manifest["network_layers"].values()),
            "bytes": engine.path.stat().st_size, "seconds": engine.manifest["build_seconds"],
            "peak_bytes": engine.manifest["build_peak_memory_bytes"]}  # fmt: skip


def _counts(census: Any) -> dict[str, Any]:
    if census is None:
        return {}
    return {"kernels": census.launches, "attentions": census.fused_attentions, "model_ms": census.model_ms(targets.T4)}


def _plain_graph(work: _Work) -> dict[str, Any]:
    started = time.perf_counter()
    path = work.plain()
    seconds = time.perf_counter() - started
    # Some authors' code exports without an error, but right at the traced batch size alone.
    parity = _differences(work, OnnxRunner(path), BATCHES)
    half = work.half(path, "cpu")
    census = engine_files.take_census(half, targets.find(TARGET), "tensorrt-rtx", 1, progress=work.progress)
    return {"seconds": seconds, "nodes": len(onnx.load(path).graph.node), "parity": parity, **_counts(census)}


def _float32(work: _Work) -> dict[str, Any]:
    return _ratio(work, work.plain(), work.ours(), tolerance=lambda largest: max(1e-4, 1e-4 * largest))


def _float16(work: _Work) -> dict[str, Any]:
    # In the form for a CPU: TensorRT-RTX's own has a sum of shifted maps in the place of a depthwise convolution.
    return _ratio(work, work.half(work.plain(), "cpu"), work.half(work.ours(), "cpu"), tolerance=lambda _: math.inf)


def _ratio(work: _Work, plain: Path, ours: Path, *, tolerance: Callable[[float], float]) -> dict[str, Any]:
    """Time two files in turn, at batch 1: median and quartiles of the ratio, round by round."""

    def contender(path: Path) -> Contender:
        runner = OnnxRunner(path)
        return Contender(
            path.name, lambda pixels: HostWorkload(runner, work.preprocess.normalize(pixels)), tolerance
        )  # fmt: skip

    timings, wrong = measurement.measure(
        [contender(plain), contender(ours)], work.pixels(1), seconds=work.seconds, progress=work.progress
    )
    if wrong:
        raise ValueError(wrong[0].reason)
    ratios = np.divide(timings[1].latencies_ms, timings[0].latencies_ms)
    low, middle, high = (float(np.percentile(ratios, share)) for share in (25, 50, 75))
    return {"ratio": middle, "quartiles": [low, high], "rounds": len(ratios),
            "ms": [timings[1].median_ms, timings[0].median_ms]}  # fmt: skip


PARTS: dict[str, Callable[[_Work], dict[str, Any]]] = {
    "export": _export, "engine": _engine, "plain": _plain_graph, "float32": _float32, "float16": _float16,
}  # fmt: skip
_OF_BASELINE = ("plain", "float32", "float16")


def _missing(row: dict[str, Any], name: str, *, baseline: bool) -> list[str]:
    """List the parts of a row to be measured; HEMF's plain form is in `make bench` and `make bench-engine`."""
    wanted = [part for part in PARTS if baseline or part not in _OF_BASELINE]
    if not (Path(__file__).parent / "plain" / f"{registry.SIZES[name].FAMILY}.py").exists():
        wanted = [part for part in wanted if part not in _OF_BASELINE]
    return [part for part in wanted if part not in row or "error" in row[part]]


def _read(kept: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    return rows


def _cells(name: str, row: dict[str, Any], *, baseline: bool) -> tuple[str, ...]:
    def cell(part: str, show: Callable[[dict[str, Any]], str]) -> str:
        values = row.get(part)
        if values is None:
            return "–"
        try:
            return "failed" if "error" in values else show(values)
        except (KeyError, TypeError):  # the builder's list was not understood
            return "–"

    def ratio(values: dict[str, Any]) -> str:
        low, high = values["quartiles"]
        return f"{values['ratio']:.2f} ({low:.2f}–{high:.2f})"

    cells = (
        name,
        cell("export", lambda v: f"{v['parameters'] / 1e6:.2f}"),
        cell("export", lambda v: f"{v['seconds']:.0f}"),
        cell("export", lambda v: str(v["nodes"])),
        cell("export", lambda v: _parity(v["parity"])),
        cell("engine", lambda v: _parity(v["fp16"])),
        cell("engine", lambda v: str(v["layers"])),
        cell("engine", lambda v: str(v["kernels"])),
        cell("engine", lambda v: str(v["attentions"])),
        cell("engine", lambda v: f"{v['bytes'] / 1e6:.0f}"),
        cell("engine", lambda v: f"{v['seconds']:.0f}"),
        cell("engine", lambda v: f"{v['peak_bytes'] / 1e6:.0f}"),
        cell("engine", lambda v: f"{v['model_ms']:.2f}"),
    )
    if not baseline:
        return cells
    return (
        *cells,
        cell("plain", lambda v: str(v["nodes"])),
        cell("plain", lambda v: str(v["kernels"])),
        cell("plain", lambda v: f"{v['model_ms']:.2f}"),
        cell("float32", ratio),
        cell("float16", ratio),
    )


def _parity(values: dict[str, Any]) -> str:
    differences = ", ".join(f"{difference:.0e}" for difference in values["differences"].values())
    return f"{differences} of {values['largest_logit']:.2g}"


if __name__ == "__main__":
    main()
