"""What `finetune` gives back where INT8 costs accuracy: on a checkpoint made hard for it, and the same in float.

Some channels of the inputs of products are made FACTOR times as large, and the weights that take them as much smaller:
the same function in float32, but INT8 has one range for all channels, and the quiet ones lose their levels.

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
from hemf_export.images import folders
from hemf_export.metrics.comparison import compare
from hemf_export.models.model_file import ModelFile
from hemf_export.precision import finetune, quantize
from hemf_export.train.finetuning_recipe import FineTuning

LOUD = 2  # channels of each input
# A product's weight → what gives its input, relative to the module that has both.
_PAIRS = {
    "pointwise.weight": ("norm.weight", "norm.bias", "depthwise.bias"),
    "mlp.squeeze.weight": ("output_norm.weight", "output_norm.bias"),
    "joint_projection.projection.weight": ("joint_norm.weight", "joint_norm.bias"),
}


def louder(saved: Checkpoint, factor: float) -> Checkpoint:
    """The same network in float32, with LOUD channels of each such input `factor` times as large."""
    state = {name: value.clone() for name, value in saved.state.items()}
    pairs = [(name, name.removesuffix(end), givers) for name in state for end, givers in _PAIRS.items()
             if name.endswith(f".{end}")]  # fmt: skip
    for number, (weight, module, givers) in enumerate(pairs, 1):
        if module + givers[0] not in state:
            continue
        size = len(state[module + givers[0]])
        channels = torch.randperm(size, generator=torch.manual_seed(number))[:LOUD]
        for giver in givers:
            state[module + giver][channels] *= factor
        state[weight][:, channels] /= factor
    return dataclasses.replace(saved, state=state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--factor", type=float, default=32)
    parser.add_argument("--count", type=int, default=128, help="calibration images")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    hard, exact = given.output / "best.pt", given.output / "best.onnx"
    checkpoint.save(louder(checkpoint.load(given.checkpoint), given.factor), hard)
    onnx_export.export(hard, exact, onnx_export.Options())
    request = quantize.Request(exact, "int8", given.data, count=given.count, judges=512, method="max")
    calibrated = quantize.make(request, ConsoleProgress(calibration_report.SearchSteps())).path
    recipe = FineTuning(epochs=given.epochs, learning_rate=given.learning_rate, seed=given.seed)
    tuning = finetune.Request(calibrated, given.data, recipe=recipe)
    tuned = finetune.make(tuning, ConsoleProgress(show_epoch)).path
    models = [ModelFile.open(path).predictor(for_proof=True) for path in (hard, calibrated, tuned)]
    for split in ("val", "test"):
        images = folders.class_folders(given.data / split, models[0].classes)
        batches = list(folders.batches(images, models[0].preprocess, 32))
        reference, *others = (np.concatenate([model.logits(pixels) for pixels in batches]) for model in models)
        for path, logits in zip((calibrated, tuned), others, strict=True):
            found = compare(logits, reference, np.asarray(images.labels))
            print(
                f"{split} {path.name}: accuracy {found.accuracy:.2%} (float {found.reference_accuracy:.2%}), "
                f"{found.agreement:.2%} agree, KL {found.kl_divergence:.1e}, largest {found.logit_difference.max:.2g}"
            )


if __name__ == "__main__":
    main()
