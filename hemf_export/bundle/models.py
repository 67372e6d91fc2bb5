"""The model files of a bundle: of one checkpoint, each as its manifest describes it; and how they are put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from engines import golden
from engines.golden import Golden
from hemf import artifact_folder, artifacts, file_names
from hemf.errors import BadInputError, UsageError
from hemf_export import compiled_engines, golden_images
from hemf_export.triton import model_file
from hemf_export.triton.model_file import ModelFile

_LONGEST_STEM = 80  # tar has 100 bytes for a name, and files beside a model have its name and an ending more
# What a clock measured of a build: the only fields of a manifest that differ where nothing else does.
TIMED_FIELDS = ("build_seconds", "build_peak_memory_bytes")
# Fields that may hold a path of the machine they were made on, and how many names of it say something elsewhere.
_PLACES = {"path": 1, "file": 1, "folder": 1, "source": 2, "images": 2}


def read(paths: Sequence[Path]) -> list[ModelFile]:
    """Read the files that are to be bundled, and refuse what doesn't belong together.

    Raises:
        UsageError: none, or two of one name.
        BadInputError: one without a manifest, or that isn't what its manifest describes; files of different
            checkpoints, or with other classes or preprocessing.
    """
    if not paths:
        raise UsageError("Nothing to bundle: name engines and ONNX files.")
    names = [member_name(path).casefold() for path in paths]
    if twice := [path for path, name in zip(paths, names, strict=True) if names.count(name) > 1]:
        raise UsageError(
            f"Two files are called {member_name(twice[0])}.", "Name each once, and give them different names."
        )
    found = []
    for path in paths:
        if path.is_file() and not artifacts.manifest_path(path).is_file():
            raise BadInputError(
                f"{path} has no manifest ({artifacts.manifest_path(path).name}): nothing tells how it was proven.",
                "Take the manifest along with it, or make the file again.",
            )
        found.append(model_file.read(path))
    first = found[0].description
    for one in found[1:]:
        own = one.description
        if own.checkpoint_sha256 != first.checkpoint_sha256:
            raise BadInputError(
                f"{one.path} was made from the checkpoint {own.checkpoint_sha256[:16]}, {found[0].path} from "
                f"{first.checkpoint_sha256[:16]}.",
                "A bundle is of one checkpoint: make one of each.",
            )
        if own.classes != first.classes or own.preprocess != first.preprocess:
            raise BadInputError(f"{one.path} and {found[0].path} have other classes or preprocessing.")
    return found


def member_name(path: Path) -> str:
    """What a file is called in a bundle: as it is, where that does for any system."""
    return file_names.fit(path.stem, longest=_LONGEST_STEM) + path.suffix.lower()


def stage(model: ModelFile, folder: Path, images: Path | None, count: int, others: Sequence[Golden]) -> dict[str, Any]:
    """Put a model into a folder, with its manifest and its golden images.

    Args:
        model: as `read` gave it.
        folder: of the bundle's models.
        images: to make golden images of, for an ONNX file; an engine has its own.
        count: of them; 0 for none.
        others: golden images of the bundle's engines: an ONNX file takes the same where it can.

    Returns:
        what was measured with a clock, which the manifest there has no more.

    Raises:
        BadInputError: the file was changed meanwhile, or its golden images were.
    """
    path = folder / member_name(model.path)
    artifact_folder.link_or_copy(model.path, path, copy=False)
    if artifacts.sha256(path) != model.sha256:
        raise BadInputError(f"{model.path} was changed while it was read.", "Try again.")
    manifest = without_places({name: value for name, value in model.manifest.items() if name not in TIMED_FIELDS})
    manifest.pop("golden", None)
    if count and (known := _golden(model, images, count, others)):
        manifest["golden"] = without_places(known.write(path))
    artifacts.write_json(artifacts.manifest_path(path), manifest)
    return {name: model.manifest[name] for name in TIMED_FIELDS if name in model.manifest}


def of_engines(models: Sequence[ModelFile]) -> list[Golden]:
    """The golden images of the engines among the models.

    Raises:
        BadInputError: some are missing or were changed.
    """
    found = (golden.read(model.path, model.manifest) for model in models if model.flavour != "onnx")
    return [one for one in found if one is not None]


def described(model: ModelFile, folder: Path) -> dict[str, Any]:
    """A staged model, for bundle.json."""
    name = member_name(model.path)
    manifest = artifacts.read_manifest(folder / name) or {}
    told = ("target", "compute_capability", "backend", "backend_version", "platform")
    return {
        "file": name,
        "kind": "onnx" if model.flavour == "onnx" else "engine",
        "precision": model.description.precision,
        "batches": model.batches,
        **{each: manifest[each] for each in told if each in manifest},
        "sha256": model.sha256,
        "golden_images": len(manifest["golden"]["logits"]) if "golden" in manifest else 0,
        **_compiled(folder / name),
    }


def _compiled(path: Path) -> dict[str, Any]:
    """What a staged engine consists of; nothing of other files, and of engines built before kernels were counted."""
    found = compiled_engines.read(path)
    if found is None:
        return {}
    own = found.to_dict()
    return {name: own[name] for name in ("census", "compiled_precision")}


def without_places(values: Any) -> Any:
    """A copy of plain values in which a path of this machine is its last name or two: nobody else has the rest."""
    if isinstance(values, Mapping):
        return {
            name: "/".join(PurePath(value.lstrip("/")).parts[-_PLACES[name] :])
            if name in _PLACES and isinstance(value, str)
            else without_places(value)
            for name, value in values.items()
        }
    return [without_places(value) for value in values] if isinstance(values, list | tuple) else values


def _golden(model: ModelFile, images: Path | None, count: int, others: Sequence[Golden]) -> Golden | None:
    if model.flavour != "onnx":
        return golden.read(model.path, model.manifest)
    taken = model.description.input
    for other in others if images is None else ():
        if other.pixels.shape[1:] == (taken.height, taken.width, 3):
            pixels = np.ascontiguousarray(other.pixels[:count])
            return golden_images.of_pixels(model.path, model.description, pixels, other.source)
    return golden_images.make(model.path, model.description, images, count)
