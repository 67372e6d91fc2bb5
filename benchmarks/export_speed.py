"""`make bench`: time hemf-base in ONNX Runtime, our graph against a naive implementation of the architecture.

Both have the same weights and go through the same exporter and onnxsim; their logits are compared before anything is
timed. Ratios are computed per round. With --weights and --int8, an INT8 file for the CPU of those weights, made by
`hemf-export calibrate`, is timed too, and so is PyTorch.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.naive import NaiveHEMF
from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.export import onnx_export
from hemf_export.files.processors import usable_cores
from hemf_export.images.images import Preprocess
from hemf_export.models.runners import OnnxRunner, Runner, TorchRunner
from hemf_export.networks.hemf.authors import convert, infer_config
from hemf_export.timing import measurement
from hemf_export.timing.workloads import HostWorkload


def naive_weights(seed: int, classes: int) -> dict[str, Tensor]:
    """Return a random state dict with the authors' names, scaled so that signals pass through all layers."""
    torch.manual_seed(seed)
    model = NaiveHEMF(classes)
    for name, value in model.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            value.normal_(0, 0.05)
    for stage in model.stages2:
        position = stage.RetNetRelPos2d
        size, heads = len(position.angle), len(position.decay)
        position.angle.copy_((1.0 / 10000 ** torch.linspace(0, 1, size // 2)).repeat_interleave(2))
        position.decay.copy_(torch.log(1 - 2.0 ** (-1 - 3 * torch.arange(heads) / heads)))
    return model.state_dict()


def export_naive(state: dict[str, Tensor], classes: int, path: Path) -> None:
    """Export the naive network with torch's exporter and optimizer, then onnxsim."""
    onnx.save(naive_graph(state, classes), path)
    simplified, valid = onnxsim.simplify(onnx.load(path))
    assert valid
    onnx.save(simplified, path)


def naive_graph(state: dict[str, Tensor], classes: int, batch: int | None = None) -> onnx.ModelProto:
    """Export the naive network with torch's exporter, for one batch size or a dynamic batch."""
    model = NaiveHEMF(classes).eval()
    # The authors' files have unused parameters.
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (torch.zeros(batch or 2, 3, 224, 224),), dynamo=True, opset_version=20, input_names=["images"],
            output_names=["logits"], verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},) if batch is None else None,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def _bound(name: str, largest: float) -> float:
    return 0.2 * largest if "INT8" in name else 1e-4


def _contender(runner: Runner, preprocess: Preprocess, tolerance: Callable[[float], float]) -> measurement.Contender:
    return measurement.Contender(
        runner.name, lambda pixels: HostWorkload(runner, preprocess.normalize(pixels)), tolerance
    )


def main() -> None:
    """Export both, compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="safetensors in the authors' names; by default from a seed")
    parser.add_argument("--int8", type=Path, help="an INT8 file of those weights, for a CPU")
    arguments = parser.parse_args()
    preprocess = Preprocess()
    with tempfile.TemporaryDirectory() as folder:
        ours, naive = Path(folder, "ours.onnx"), Path(folder, "naive.onnx")
        if arguments.weights is None:
            state = naive_weights(0, 7)
        else:
            state = {name: value.float() for name, value in load_file(arguments.weights).items()}
        classes = infer_config(convert(state)[0]).num_classes
        with ConsoleProgress().task("Exporting the naive graph"):
            export_naive(state, classes, naive)
        converted, _ = convert(state)
        names = tuple(f"class_{index}" for index in range(classes))
        checkpoint.save(Checkpoint(infer_config(converted), names, preprocess, converted), Path(folder, "ours.pt"))
        onnx_export.export(Path(folder, "ours.pt"), ours, onnx_export.Options(), progress=ConsoleProgress())
        files = {"naive": naive, "ours": ours} | ({} if arguments.int8 is None else {"ours, INT8": arguments.int8})
        # `calibrate` proves the accuracy of INT8: here its file must only have the same weights.
        contenders = [
            _contender(OnnxRunner(path, name), preprocess, lambda largest, name=name: _bound(name, largest))
            for name, path in files.items()
        ]
        if arguments.int8 is not None:
            runner = TorchRunner(checkpoint.load(Path(folder, "ours.pt")).model())
            contenders.append(_contender(runner, preprocess, lambda _: 1e-4))
        pixels = np.random.default_rng(0).integers(0, 256, (arguments.batch, 224, 224, 3), dtype=np.uint8)
        timings, wrong = measurement.measure(contenders, pixels, seconds=arguments.seconds)
        assert not wrong, wrong
        nodes = {name: str(len(onnx.load(path).graph.node)) for name, path in files.items()}
    rows = []
    for timing in timings:
        ratio, low, high = vars(timing.ratio).values()
        times = f"{timing.percentile(50):.1f}", f"{timing.percentile(90):.1f}"
        rows.append(
            (timing.name, nodes.get(timing.name, ""), *times, f"{ratio:.3f}", f"{low:.3f}–{high:.3f}",
             f"{float(np.median(np.divide(timing.latencies_ms, timings[1].latencies_ms))):.3f}")
        )  # fmt: skip
    rounds = len(timings[0].latencies_ms)
    title = f"hemf-base, ONNX Runtime, batch {arguments.batch}, {usable_cores()} threads, {rounds} rounds"
    console.table(title, ("graph", "nodes", "p50 ms", "p90 ms", "of naive", "95 %", "of ours"), rows)


if __name__ == "__main__":
    main()
