"""The files of one version in a repository: the model, its manifest, golden images, and model.py for Triton's Python
backend with what it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines import golden
from hemf import artifact_folder, artifacts
from hemf_export.triton import backend as backends
from hemf_export.triton.model_file import ModelFile

_OURS = Path(__file__).parent / "served"
_RUNNERS = {"onnx": "onnx_runner.py", "tensorrt-rtx": "engine_runner.py"}
PROGRAM = "program_sha256"


def put(model: ModelFile, backend: str, folder: Path) -> None:
    """Copy a version's files into a new folder. The model's manifest comes with it, word for word."""
    path = folder / backends.FILE_NAMES[model.flavour]
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


def program_sha256(model: ModelFile, backend: str) -> str | None:
    """SHA-256 of what Triton's Python backend runs, all its files one after the other; None for another backend."""
    if backend != "python":
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in _program(model).values())).hexdigest()


def faults(folder: Path, model: ModelFile, config: Any, version: int) -> Iterator[str]:
    """What is wrong with a version's program. It may be that of an earlier hemf-export: its hash was written then."""
    if config.backend != "python":
        return
    names = list(_program(model)) if model.flavour in _RUNNERS else []
    if missing := [name for name in names if not (folder / name).is_file()]:
        yield f"{', '.join(missing)} is missing, which the Python backend runs"
        return
    found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    key = f"{PROGRAM}.{version}"
    known = config.parameters[key].string_value if key in config.parameters else None
    if found != known:
        yield f"{' or '.join(names)} was changed: SHA-256 {found[:16]}…, by the parameters {str(known)[:16]}…"


def _program(model: ModelFile) -> dict[str, Path]:
    return {"model.py": _OURS / "model.py", "hemf_runner.py": _OURS / _RUNNERS[model.flavour]}
