"""Estimate what a cache of decoded images could save: decoding time against the time of a training step, on one core.

The sample's blood cells are enlarged to the sizes of the paper's originals, with noise like a camera's, for realistic
JPEG files. A cache would read raw RGB, which takes time too: it saves the difference.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hemf_export.cli import console
from hemf_export.images.images import Preprocess, decode
from hemf_export.networks.registry import build, registered
from hemf_export.train.augmentation import augment
from hemf_export.train.recipe import Recipe

ORIGINALS = {"COVID-CT": (350, 256), "ISIC2018": (600, 450), "Kvasir": (1280, 1024)}
STEPS = (("hemf-tiny", 128, 32), ("hemf-base", 224, 8))
ROUNDS = 3


def originals(source: Path, folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Write `count` images of the sample, enlarged, as JPEG files."""
    generator = np.random.default_rng(0)
    paths = []
    for index, path in enumerate(sorted(source.glob("*/*/*.jpg"))[::7][:count]):
        pixels = np.asarray(decode(path).resize(size, Image.Resampling.BICUBIC), np.float64)
        pixels = pixels + generator.normal(0, 6, (*pixels.shape[:2], 1))
        target = folder / f"{size[0]}-{index}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=95)
        paths.append(target)
    return paths


def milliseconds(work: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Return the best mean time of an item in `ROUNDS` rounds, in ms."""
    items, best = list(items), float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, (time.perf_counter() - started) / len(items))
    return best * 1e3


def step_ms(name: str, size: int, batch: int) -> float:
    """Return the time of a training step per image, in ms."""
    model = build(registered(name, num_classes=7, image_size=size), seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.train().parameters())
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 7

    def step(_: object) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return milliseconds(step, range(1)) / batch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path(__file__).parent.parent / "examples" / "blood_cells")
    parser.add_argument("--count", type=int, default=24, help="images of each size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {model: step_ms(model, size, batch) for model, size, batch in STEPS}
        for kind, size in ORIGINALS.items():
            paths = originals(options.images, folder, size, options.count)
            images = [decode(path) for path in paths]
            raw = [folder / f"{path.stem}.raw" for path in paths]
            for path, image in zip(raw, images, strict=True):
                path.write_bytes(image.tobytes())
            decoding = milliseconds(decode, paths)
            reading = milliseconds(lambda path, size=size: Image.frombytes("RGB", size, path.read_bytes()), raw)
            for model, side, _ in STEPS:
                preprocess, generator = Preprocess.for_size(side), np.random.default_rng(0)
                augmenting = milliseconds(
                    lambda image, p=preprocess, g=generator: p.normalize(augment(image, p.size, g, Recipe())), images
                )
                whole = decoding + augmenting + steps[model]
                saved = (decoding - reading) / whole
                times = (f"{value:.1f} ms" for value in (decoding, reading, augmenting, steps[model]))
                rows.append((f"{kind} {size[0]}×{size[1]}", f"{model} {side}", *times, f"{saved:.1%}"))
    columns = ("originals", "model", "decode", "raw RGB back", "augment", "step", "a cache saves")
    console.table("Time of an image, one core", columns, rows, words=(0, 1))


if __name__ == "__main__":
    main()
