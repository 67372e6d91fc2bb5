"""Write the files in a model's folder besides its configuration: those of each version, and the warm-up image.

A version has the model, its manifest, golden images, and for Triton's Python backend model.py with its runner.

A server runs the warm-up before a model counts as ready: one real image, in batches of the expected sizes; Triton
repeats it to fill a batch. The data file has a fixed name, as the name of the model's input could be any text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemf_export.engines import golden
from hemf_export.export import parity
from hemf_export.export.parity import Samples
from hemf_export.files import artifact_folder, artifacts
from hemf_export.triton import servable
from hemf_export.triton.options import Options
from hemf_export.triton.servable import NUMPY_TYPES, Servable

_OURS = Path(__file__).parent / "served"
_RUNNERS = {"onnx": "onnx_runner.py", "tensorrt-rtx": "engine_runner.py"}
PROGRAM = "program_sha256"
WARMUP_FOLDER = "warmup"
WARMUP_FILE = "warmup_0"


def put_version(model: Servable, backend: str, folder: Path) -> None:
    """Copy a version's files into a new folder, with the model's manifest unchanged."""
    path = folder / servable.FILE_NAMES[model.flavour]
    artifact_folder.link_or_copy(model.path, path, copy=True)
    manifest = artifacts.manifest_path(model.path)
    if manifest.is_file():
        artifact_folder.link_or_copy(manifest, artifacts.manifest_path(path), copy=True)
    else:
        artifacts.write_json(artifacts.manifest_path(path), model.manifest)
    if model.manifest.get("golden") is not None:
        artifact_folder.link_or_copy(golden.place(model.path), golden.place(path), copy=True)
    if backend == "python":
        for name, source in _program(model).items():
            artifact_folder.link_or_copy(source, folder / name, copy=True)


def program_sha256(model: Servable, backend: str) -> str | None:
    """Return the SHA-256 of the program of Triton's Python backend, files concatenated; None for other backends."""
    if backend != "python":
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in _program(model).values())).hexdigest()


def program_faults(folder: Path, model: Servable, config: Any, version: int) -> Iterator[str]:
    """Yield the faults of a version's program, which may be an earlier hemf-export's: its recorded hash counts."""
    if config.backend != "python":
        return
    names = list(_program(model)) if model.flavour in _RUNNERS else []
    if missing := [name for name in names if not (folder / name).is_file()]:
        yield f"{', '.join(missing)} is missing, which the Python backend runs"
        return
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    key = f"{PROGRAM}.{version}"
    known = config.parameters[key].string_value if key in config.parameters else None
    if digest != known:
        yield f"{' or '.join(names)} was changed: SHA-256 {digest[:16]}…, by the parameters {str(known)[:16]}…"


def _program(model: Servable) -> dict[str, Path]:
    return {"model.py": _OURS / "model.py", "hemf_runner.py": _OURS / _RUNNERS[model.flavour]}


@dataclass(frozen=True)
class Warmup:
    """Warm-up image.

    Args:
        source: source of the image, in words; empty without warm-up.
        data: bytes of the model's input; None to keep the existing image.
    """

    source: str
    data: bytes | None = None


def plan_warmup(config: Any, model: Servable, options: Options) -> Warmup:
    """Add the warm-up to a `ModelConfig` and choose the image; nothing is written yet.

    The image is from `options.images`, else that of the earlier versions, else an engine's golden image, else noise.

    Raises:
        BadInputError: no images, or golden images that were changed.
    """
    before = {image.input_data_file for entry in config.model_warmup for image in entry.inputs.values()}
    del config.model_warmup[:]
    if not options.warmup:
        return Warmup("")
    if len(before) == 1 and options.images is None:
        _request_warmup(config, model, *before)
        return Warmup("the image of the version before")
    _request_warmup(config, model, WARMUP_FILE)
    return _warmup_image(model, options, 1 if config.max_batch_size else model.fixed_batch or 1)


def put_warmup(folder: Path, image: Warmup) -> None:
    """Write the warm-up image into a model's folder."""
    if image.data is not None:
        (folder / WARMUP_FOLDER).mkdir(exist_ok=True)
        artifacts.write_bytes(folder / WARMUP_FOLDER / WARMUP_FILE, image.data)


@contextmanager
def warmup_in_place(folder: Path, image: Warmup) -> Iterator[None]:
    """Write the warm-up image for a block; restore the previous one if the block fails."""
    path = folder / WARMUP_FOLDER / WARMUP_FILE
    before = path.read_bytes() if path.is_file() else None
    put_warmup(folder, image)
    try:
        yield
    except BaseException:
        if before is not None:
            artifacts.write_bytes(path, before)
        elif image.data is not None:
            path.unlink()
        raise


def _warmup_image(model: Servable, options: Options, count: int) -> Warmup:
    known = model.file.golden() if options.images is None and model.flavour != "onnx" else None
    model_input = model.description.input
    samples = Samples(model_input, parity.image_folder(options.images, None), 1)
    pixels = known.pixels[:1] if known else next(samples.pixels((1,)))
    image = model_input.network(pixels).astype(NUMPY_TYPES[model.input.dtype])
    assert image.shape[1:] == model.input.dims, "the description's image shape is the model's input shape"
    source = f"a golden image ({known.source})" if known else samples.source
    return Warmup(source, np.ascontiguousarray(np.repeat(image, count, axis=0)).tobytes())


def _request_warmup(config: Any, model: Servable, file: str) -> None:
    """Add warm-up requests for batch 1 and each preferred size, or one whole request for a fixed batch."""
    for size in sorted({1, *config.dynamic_batching.preferred_batch_size}):
        entry = config.model_warmup.add(name=f"batch-{size}", batch_size=size)
        image = entry.inputs[model.input.name]
        image.data_type = config.input[0].data_type
        image.dims.extend(config.input[0].dims)
        image.input_data_file = file
