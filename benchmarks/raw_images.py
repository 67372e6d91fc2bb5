"""Compare the resize in the graph with Pillow's on real images: pixels, logits and classes, in float32 and float16.

First the resize alone, of each image at its own size. Then whole files that take raw images: for the most frequent
sizes of the images, for one common size that all are resized to, and for extreme shapes that a few are resized to.
Float16 is emulated, and compared with a float16 file on Pillow's pixels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from PIL import Image

from hemf_export.calibration import emulation
from hemf_export.calibration.blocks import RESIZE, block_of
from hemf_export.calibration.session import Session
from hemf_export.checkpoints import checkpoint
from hemf_export.cli import console
from hemf_export.export import onnx_export
from hemf_export.export.raw_pixels import Resize
from hemf_export.images import folders
from hemf_export.images.images import PixelArray, Preprocess, decode
from hemf_export.images.model_input import SourceSize
from hemf_export.metrics import comparison
from hemf_export.models.runners import TorchRunner
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request

HOSTILE = ("1x1", "1x5000", "5000x1", "61x640", "640x61", "900x400", "480x640", "1024x1280")
BATCH = 8


def main() -> None:
    """Print the table; exit with 1 if a pixel is off by more than one level, a logit by 0.02, or a class changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--count", type=int, default=100, help="largest number of images per folder")
    parser.add_argument("--sizes", type=int, default=2, help="number of the images' own sizes")
    parser.add_argument("--common", default="450x600", help="HxW that all images are resized to")
    parser.add_argument("--shapes", nargs="*", default=HOSTILE, help="HxW; a few images are resized to each")
    arguments = parser.parse_args()
    listed = [path for folder in arguments.data for path in folders.any_images(folder).spread(arguments.count).paths]
    images = [decode(path) for path in listed]
    bad = resized_alone(checkpoint.load(arguments.checkpoint).preprocess, images)
    own = Counter((image.height, image.width) for image in images).most_common(arguments.sizes)
    groups: list[tuple[str, SourceSize, list[PixelArray]]] = []
    for size, _ in own:
        same = [np.asarray(image) for image in images if (image.height, image.width) == size]
        groups.append(("own", SourceSize(*size), same))
    shapes = [(arguments.common, images)]
    shapes += [(text, images[number :: max(1, len(images) // 8)][:8]) for number, text in enumerate(arguments.shapes)]
    for text, some in shapes:
        shape = SourceSize.parse(text)
        brought = [np.asarray(image.resize((shape.width, shape.height), Image.Resampling.LANCZOS)) for image in some]
        groups.append(("brought to", shape, brought))
    with tempfile.TemporaryDirectory() as folder:
        rows, differ = compare(arguments.checkpoint, Path(folder), groups)
    columns = (
        "images", "HxW", "number", "pixels off", "by at most", "largest logit", "float32: logits differ by", "classes",
        "float16: by", "classes",
    )  # fmt: skip
    console.table(f"{arguments.checkpoint}, {', '.join(map(str, arguments.data))}", columns, rows)
    if bad or differ:
        raise SystemExit(f"{bad + differ} groups differ by more than they may.")


def resized_alone(preprocess: Preprocess, images: Sequence[Image.Image]) -> int:
    """Print the difference of the graph's resize, run in PyTorch, from Pillow's; return 1 if over one level."""
    off = []
    for image in images:
        pixels = torch.from_numpy(np.array(image)[None])
        resized = Resize(preprocess, SourceSize(image.height, image.width))(pixels)[0].permute(1, 2, 0).numpy()
        off.append(np.abs(resized - preprocess.pixels(image)))
    sizes = len({image.size for image in images})
    exact, largest = float(np.mean([one == 0 for one in off])), float(np.max(off))
    console.facts(
        "The resize alone, each image at its own size",
        [
            ("images", f"{len(images)} of {sizes} sizes"),
            ("pixels", f"{exact:.4%} Pillow's, off by {largest:.0f} at most"),
        ],
    )
    return int(largest > 1)


def compare(
    source: Path, folder: Path, groups: Sequence[tuple[str, SourceSize, list[PixelArray]]]
) -> tuple[list[tuple[str, ...]], int]:
    """Return a row for each group, and the number of groups beyond the tolerance."""
    saved = checkpoint.load(source)
    runner, plain = TorchRunner(saved.model()), folder / "plain.onnx"
    onnx_export.export(source, plain, onnx_export.Options(input_type="uint8"))
    quantize.make(Request(plain, output=folder / "plain.fp16.onnx"))
    half = Session(emulation.of_file(onnx.load(folder / "plain.fp16.onnx")))
    rows, bad = [], 0
    for kind, size, images in groups:
        console.say(f"{len(images)} images of {size} …")
        path, path16 = folder / "whole.onnx", folder / "whole.fp16.onnx"
        onnx_export.export(source, path, onnx_export.Options(input_type="uint8", source_size=size))
        quantize.make(Request(path, output=path16, force=True))
        raw = np.stack(images)
        pixels = np.stack([saved.preprocess.pixels(Image.fromarray(one)) for one in images])
        expected = np.concatenate([runner.infer(saved.preprocess.normalize(part)) for part in parts(pixels)])
        expected16 = np.concatenate([half.logits(part) for part in parts(pixels)])
        logits, levels32 = run(ir.load(path), raw)
        logits16, levels16 = run(emulation.of_file(onnx.load(path16)), raw)
        off = np.stack([np.abs(levels - pixels) for levels in (levels32, levels16)])
        compared = [comparison.compare(logits, expected), comparison.compare(logits16, expected16)]
        differences = [one.logit_difference.max for one in compared]
        changed = [len(one.changed) for one in compared]
        largest = compared[0].largest_logit
        bad += off.max() > 1 or max(differences) > 0.02 or max(changed) > 0
        rows.append((
            kind, str(size), str(len(raw)), f"{(off > 0).mean():.4%}", f"{off.max():.0f}", f"{largest:.1f}",
            f"{differences[0]:.1e}", f"{changed[0]} changed", f"{differences[1]:.1e}", f"{changed[1]} changed",
        ))  # fmt: skip
    return rows, bad


def run(model: ir.Model, raw: PixelArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a graph's logits (n, classes), and the resized images before normalization, (n, size, size, 3)."""
    name = [str(node.outputs[0].name) for node in model.graph if block_of(str(node.name)) == RESIZE][-1]
    session = Session(model, outputs=[str(model.graph.outputs[0].name), name])
    outputs = [session.run(part) for part in parts(raw)]
    logits, levels = (np.concatenate(values) for values in zip(*outputs, strict=True))
    return logits, levels.transpose(0, 2, 3, 1)


def parts(images: PixelArray) -> list[PixelArray]:
    """Split images into batches."""
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


if __name__ == "__main__":
    main()
