"""What a server runs before a model counts as ready: one real image, in batches of the sizes that will come.

Triton makes a batch of N of one image by itself, N times the same. The file's name is ours: that of the input is out of
the model's file, and could be any text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import golden
from hemf import artifacts
from hemf_export import parity
from hemf_export.parity import Samples
from hemf_export.triton.model_file import NUMPY_TYPES, ModelFile
from hemf_export.triton.options import Options

FOLDER = "warmup"
FILE = "warmup_0"


@dataclass(frozen=True)
class Warmup:
    """An image to warm up with.

    Args:
        source: where it is from, in words; empty where there is no warm-up.
        data: as the model takes it, in the order of its axes; None where the one that is there stays.
    """

    source: str
    data: bytes | None = None


def plan(config: Any, model: ModelFile, options: Options) -> Warmup:
    """Put into a `ModelConfig` what is to be run, and choose the image; nothing is written yet.

    The image is of `options.images`, else the one of the versions before, else an engine's golden one, else noise.

    Raises:
        BadInputError: no images, or golden images that were changed.
    """
    before = {image.input_data_file for entry in config.model_warmup for image in entry.inputs.values()}
    del config.model_warmup[:]
    if not options.warmup:
        return Warmup("")
    if len(before) == 1 and options.images is None:
        _ask(config, model, *before)
        return Warmup("the image of the version before")
    _ask(config, model, FILE)
    return _make(model, options, 1 if config.max_batch_size else model.fixed_batch or 1)


def put(folder: Path, image: Warmup) -> None:
    """Write the image into a model's folder."""
    if image.data is not None:
        (folder / FOLDER).mkdir(exist_ok=True)
        artifacts.write_bytes(folder / FOLDER / FILE, image.data)


@contextmanager
def in_place(folder: Path, image: Warmup) -> Iterator[None]:
    """Write the image for a block; what was there before comes back if that fails."""
    path = folder / FOLDER / FILE
    before = path.read_bytes() if path.is_file() else None
    put(folder, image)
    try:
        yield
    except BaseException:
        if before is not None:
            artifacts.write_bytes(path, before)
        elif image.data is not None:
            path.unlink()
        raise


def _make(model: ModelFile, options: Options, count: int) -> Warmup:
    known = golden.read(model.path, model.manifest) if options.images is None and model.flavour != "onnx" else None
    taken = model.description.input
    samples = Samples(taken, parity.image_folder(options.images, None), 1)
    pixels = known.pixels[:1] if known else next(samples.pixels((1,)))
    image = taken.network(pixels).astype(NUMPY_TYPES[model.input.dtype])
    assert image.shape[1:] == model.input.dims, "the description's images are the model's input"
    source = f"a golden image ({known.source})" if known else samples.source
    return Warmup(source, np.ascontiguousarray(np.repeat(image, count, axis=0)).tobytes())


def _ask(config: Any, model: ModelFile, file: str) -> None:
    """Ask for a batch of 1, and of each preferred size. A fixed batch is one request, all of it."""
    for size in sorted({1, *config.dynamic_batching.preferred_batch_size}):
        entry = config.model_warmup.add(name=f"batch-{size}", batch_size=size)
        image = entry.inputs[model.input.name]
        image.data_type = config.input[0].data_type
        image.dims.extend(config.input[0].dims)
        image.input_data_file = file
