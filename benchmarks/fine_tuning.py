"""Measure the accuracy that `finetune` recovers where INT8 costs accuracy, on a checkpoint made hard to quantize.

Some channels of the inputs of products are scaled up by FACTOR, and their weights down: the same function in float32,
but INT8 has one range for all channels, and the small ones lose their levels.

    python -m benchmarks.fine_tuning run/best.pt --data data --factor 32 -o hard
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.cli import calibration_report
from hemf_export.cli.commands.finetune import show_epoch
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.export import onnx_export
from hemf_export.finetuning import finetune
from hemf_export.finetuning.recipe import FineTuning
from hemf_export.images import folders
from hemf_export.metrics.comparison import compare
from hemf_export.models.model_file import ModelFile
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request

OUTLIERS = 2  # outlier channels of each input
# Suffix of a product's weight → parameters that scale its input, relative to the module that has both.
_PAIRS = {
    "pointwise.weight": ("norm.weight", "norm.bias", "depthwise.bias"),
    "mlp.squeeze.weight": ("output_norm.weight", "output_norm.bias"),
    "joint_projection.projection.weight": ("joint_norm.weight", "joint_norm.bias"),
}


def with_outliers(saved: Checkpoint, factor: float) -> Checkpoint:
    """Return the same function in float32, with OUTLIERS channels of each such input scaled by `factor`."""
    state = {name: value.clone() for name, value in saved.state.items()}
    pairs = [(name, name.removesuffix(end), producers) for name in state for end, producers in _PAIRS.items()
             if name.endswith(f".{end}")]  # fmt: skip
    for number, (weight, module, producers) in enumerate(pairs, 1):
        if module + producers[0] not in state:
            continue
        size = len(state[module + producers[0]])
        channels = torch.randperm(size, generator=torch.manual_seed(number))[:OUTLIERS]
        for producer in producers:
            state[module + producer][channels] *= factor
        state[weight][:, channels] /= factor
    return dataclasses.replace(saved, state=state)


def main() -> None:
    """Calibrate, fine-tune, and print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--factor", type=float, default=32)
    parser.add_argument("--count", type=int, default=128, help="number of calibration images")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    hard, exact = arguments.output / "best.pt", arguments.output / "best.onnx"
    checkpoint.save(with_outliers(checkpoint.load(arguments.checkpoint), arguments.factor), hard)
    onnx_export.export(hard, exact, onnx_export.Options())
    request = Request(exact, "int8", arguments.data, count=arguments.count, held_out_count=512, method="max")
    calibrated = quantize.make(request, ConsoleProgress(calibration_report.SearchSteps())).path
    recipe = FineTuning(epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed)
    tuning = finetune.Request(calibrated, arguments.data, recipe=recipe)
    tuned = finetune.make(tuning, ConsoleProgress(show_epoch)).path
    models = [ModelFile.open(path).predictor(for_proof=True) for path in (hard, calibrated, tuned)]
    for split in ("val", "test"):
        images = folders.class_folders(arguments.data / split, models[0].description.classes)
        batches = list(folders.batches(images, models[0].description.preprocess, 32))
        reference, *others = (np.concatenate([model.logits(pixels) for pixels in batches]) for model in models)
        for path, logits in zip((calibrated, tuned), others, strict=True):
            result = compare(logits, reference, np.asarray(images.labels))
            print(
                f"{split} {path.name}: accuracy {result.accuracy:.2%} (float {result.reference_accuracy:.2%}), "
                f"{result.agreement:.2%} agree, KL {result.kl_divergence:.1e}, "
                f"largest {result.logit_difference.max:.2g}"
            )


if __name__ == "__main__":
    main()
