"""Images, checkpoints and graphs that the steps share: whichever step needs one first makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hemf_export
from hemf_export.checkpoints import checkpoint
from hemf_export.gpu_check.step import Place
from hemf_export.images.images import Preprocess
from hemf_export.networks.configuration import WHOLE, NetworkConfig
from hemf_export.networks.registry import build, registered

PROJECT = Path(hemf_export.__file__).parents[1]  # the checkout, if this runs in one
CLASSES = ("blue", "green", "red")
_COUNTS, _FEW = {"train": 24, "val": 8, "test": 8}, {"train": 4, "val": 2, "test": 2}  # images of each class
SIDE = 72  # pixels of an image's sides
_SPREAD = 8  # of the weights of an untrained head, so that its logits differ by class


def network(place: Place, name: str) -> dict[str, Any]:
    """Options of `hemf_export.train` for a network: model, variant and image size."""
    if place.small:
        return {"model": "hemf-tiny", "variant": "global-only", "image_size": 32}
    return {"model": name, "variant": None, "image_size": 224 if name == "hemf-base" else 96}


def config(place: Place, name: str) -> NetworkConfig:
    """Configuration of a network."""
    chosen = network(place, name)
    return registered(
        chosen["model"], num_classes=len(CLASSES), image_size=chosen["image_size"], variant=chosen["variant"] or WHOLE
    )


def target(place: Place) -> str:
    """Compute capability of this GPU, as a target."""
    major, minor = torch.cuda.get_device_capability() if place.device == "cuda" else (7, 5)
    return f"sm_{major}{minor}"


def wait(place: Place) -> None:
    """Wait for the GPU."""
    if place.device == "cuda":
        torch.cuda.synchronize()


def images(place: Place) -> Path:
    """Data folder with noisy pictures, each class of another colour."""
    folder = place.folder / "images"
    if (folder / "done").is_file():
        return folder
    generator = np.random.default_rng(0)
    for split, count in (_FEW if place.small else _COUNTS).items():
        for channel, name in zip((2, 1, 0), CLASSES, strict=True):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = generator.integers(0, 160, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[..., channel] += 80
                Image.fromarray(pixels).save(folder / split / name / f"{number:02}.png")
    (folder / "done").touch()
    return folder


def trained(place: Place) -> Path:
    """Checkpoint of a small network, trained on `images` for a few steps."""
    path = place.folder / "small" / "best.pt"
    if not path.is_file():
        hemf_export.train(
            images(place), path.parent, **network(place, "hemf-tiny"), device=place.device, workers=0,
            recipe={"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        )  # fmt: skip
    return path


def untrained(place: Place) -> Path:
    """Checkpoint of hemf-base with weights made from a seed: its speed is that of a trained one."""
    path = place.folder / "base" / "base.pt"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        settings = config(place, "hemf-base")
        state = build(settings, seed=0).state_dict()
        state["head.weight"] = state["head.weight"] * _SPREAD
        made = checkpoint.Checkpoint(settings, CLASSES, Preprocess.for_size(settings.image_size), state)
        checkpoint.save(made, path)
    return path


def exported(place: Place, source: Path) -> Path:
    """ONNX file of a checkpoint."""
    path = source.with_suffix(".onnx")
    return path if path.is_file() else hemf_export.export_onnx(source, path).path


def half(place: Place, source: Path) -> Path:
    """FP16 graph of a checkpoint, by structure."""
    path = source.with_suffix(".fp16.onnx")
    return path if path.is_file() else hemf_export.quantize(exported(place, source), output=path).path


def quantized(place: Place, source: Path) -> Path:
    """INT8 graph of a checkpoint."""
    path = source.with_suffix(".int8.onnx")
    if not path.is_file():
        hemf_export.quantize(
            exported(place, source), images(place), path, precision="int8", method="max", target=target(place)
        )
    return path
