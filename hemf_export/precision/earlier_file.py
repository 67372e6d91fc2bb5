"""Decide on an existing file where a graph or an engine is to be written: reuse, replace, or refuse.

A file that was made from the same file with the same options may be reused or replaced. One made from another file,
with other options, or without a manifest isn't replaced unless `force` asks for it: it may have been proven, shipped or
measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.models import proof
from hemf_export.models.proof import ImageRecord

KEY = "options"  # in a manifest
_DIGITS = 12  # of a hash in messages
_TITLES = {
    "for": "backend",
    "calibration_images": "ranges",
    "held_out_images": "proven on",
    "training_images": "trained on",
    "checkpoint_sha256": "checkpoint",
}
_DESCRIBED = ("preprocess", "classes", "output_type")  # user options for a file that isn't ours
_IMAGES = ("calibration_images", "held_out_images")
_UNREADABLE = (BadInputError, KeyError, TypeError, ValueError, AttributeError)  # what a damaged manifest raises
_OF_ENGINES = ("checkpoint_sha256", "backend", "compute_capability")


class WouldReplaceError(BadInputError):
    """A file that was made otherwise would be replaced."""

    def __init__(
        self, message: str, hint: str = "Write another file with `output`, or replace that one with `force`."
    ) -> None:
        super().__init__(message, hint)


@dataclass(frozen=True)
class Recipe:
    """Parent and options of a file.

    Args:
        parent: name of the file that it is made from.
        parent_sha256: hash of that file.
        options: everything that affects the result or its proof, in plain types.
    """

    parent: str
    parent_sha256: str
    options: Mapping[str, Any]

    def for_manifest(self) -> dict[str, Any]:
        """Options that a manifest has nowhere else."""
        return {name: value for name, value in self.options.items() if name not in (*_DESCRIBED, *_IMAGES)}


def require_replaceable(
    path: Path, recipe: Recipe, *, only: Collection[str] | None = None, new_parent: bool = False
) -> None:
    """Check that a file may be written at `path`: there is none, or one of the same recipe.

    Args:
        path: the output.
        recipe: recipe of the new file.
        only: names of the options to compare; None for all.
        new_parent: whether the parent was just made again, so that an earlier file's own parent no longer exists.

    Raises:
        WouldReplaceError: a file of another recipe is there.
    """
    if not path.exists():
        return
    try:
        manifest = artifacts.read_manifest(path)
    except BadInputError as error:
        raise WouldReplaceError(f"{path} is there already. {error.message}") from error
    if manifest is None:
        raise WouldReplaceError(f"{path} is there already, and no manifest tells how it was made.")
    try:
        differences = list(_differences(manifest, recipe, only, new_parent=new_parent))
    except _UNREADABLE as error:
        raise WouldReplaceError(f"{path} is there already, and its manifest can't be read: {error!r}.") from error
    if differences:
        raise WouldReplaceError(f"{path} is there already, and was made otherwise: {'; '.join(differences)}.")


def is_made_by(path: Path, recipe: Recipe, *, only: Collection[str] | None = None) -> bool:
    """Whether an undamaged file at `path` was made from the same file with the same options.

    Args:
        path: the file.
        recipe: recipe to compare with.
        only: names of the options to compare; None for all.
    """
    try:
        manifest = artifacts.read_manifest(path) if path.is_file() else None
        return manifest is not None and not any(_differences(manifest, recipe, only))
    except _UNREADABLE:
        return False


def _differences(
    manifest: Mapping[str, Any], recipe: Recipe, only: Collection[str] | None, *, new_parent: bool = False
) -> Iterator[str]:
    """Differences of a manifest from a recipe, in words; missing options don't count as different."""
    there = manifest.get("parent_sha256")
    if there != recipe.parent_sha256 and not (new_parent and manifest.get("parent") == recipe.parent):
        parent = f"{manifest.get('parent', 'a file')} of SHA-256 {str(there)[:_DIGITS]}"
        yield f"from {parent}, now from {recipe.parent} of {recipe.parent_sha256[:_DIGITS]}"
    options = _options_of(manifest)
    for name, value in recipe.options.items():
        if name not in options or (only is not None and name not in only) or options[name] == value:
            continue
        old, new = _text(name, options[name]), _text(name, value)
        yield f"{_title(name)} {old}, now {f'other {new}' if old == new else new}"


def _options_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Options in a manifest; those of earlier versions have fewer."""
    if manifest.get("kind") == "engine":
        build = manifest.get("build")
        own = {name: manifest[name] for name in _OF_ENGINES if name in manifest}
        return {**own, **(build if isinstance(build, Mapping) else {})}
    own = {name: manifest[name] for name in _DESCRIBED if name in manifest}
    evidence = proof.of_manifest(manifest)
    if evidence is not None:
        calibrated = evidence.calibration_images
        own["calibration_images"] = None if calibrated is None else calibrated.to_dict()
        own["held_out_images"] = evidence.images.to_dict()
    options = manifest.get(KEY)
    if isinstance(options, Mapping):
        return {**own, **options}
    form, gain, tuned = (manifest.get(name) for name in ("form", "int8_gain", "fine_tuning"))
    if isinstance(form, Mapping) and "for" in form:
        own["for"] = form["for"]
    if isinstance(tuned, Mapping):
        training = ImageRecord.from_dict(tuned["training_images"]).to_dict()
        return {**own, **tuned["recipe"], "training_images": training, "budget": manifest.get("budget")}
    if isinstance(gain, Mapping):  # an FP16 file may be the result of a search for INT8
        return {**own, "precision": "int8", "budget": gain.get("budget")}
    if evidence is not None and evidence.calibration_images is not None:
        own["budget"] = manifest.get("budget")
    return {**own, "precision": manifest.get("precision")}


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _text(name: str, value: Any) -> str:
    """Value of an option, for messages."""
    if name == "checkpoint_sha256":
        return f"of SHA-256 {str(value)[:_DIGITS]}"
    if name == "calibration_images":
        return "not measured, float32 by structure" if value is None else f"of {ImageRecord.from_dict(value)}"
    if name in ("held_out_images", "training_images"):
        return str(ImageRecord.from_dict(value))
    if isinstance(value, Mapping):
        parts = (f"{_title(key)} {_text(key, each)}" for key, each in value.items() if each is not None)
        return ", ".join(parts) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
