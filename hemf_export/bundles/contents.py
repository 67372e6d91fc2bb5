"""Collect the contents of a bundle: model files of one checkpoint, as their manifests describe them, and their reports.

Reports are the JSON of a verification and of a benchmark, without this machine's paths, and their HTML pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hemf_export.bench import accuracy
from hemf_export.bench import page as bench_page
from hemf_export.bundles import index
from hemf_export.engines.golden import Golden
from hemf_export.files import artifact_folder, artifacts, file_names
from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError
from hemf_export.precision import compiled_engines, golden_images
from hemf_export.triton import servable
from hemf_export.triton.servable import Servable
from hemf_export.verification import baseline
from hemf_export.verification import page as verification_page
from hemf_export.verification import text as verification_text

_LONGEST_STEM = 80  # tar has 100 bytes for a name, and a model's side files append to its name
# Timings of a build: the only fields of a manifest that differ between identical builds.
TIMED_FIELDS = ("build_seconds", "build_peak_memory_bytes")
# Fields that may hold a path of the machine they were made on, and how many of its last parts to keep.
_PLACES = {"path": 1, "file": 1, "folder": 1, "source": 2, "images": 2}
VERIFY_JSON, VERIFY_PAGE = "reports/verify.json", "reports/verify.html"
BENCH_JSON, BENCH_PAGE = f"{index.TIMINGS}/bench.json", f"{index.TIMINGS}/bench.html"


def read_models(paths: Sequence[Path]) -> list[Servable]:
    """Read the files to bundle, and refuse files that don't belong together.

    Raises:
        UsageError: no file, or two with the same name.
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
    models = []
    for path in paths:
        if path.is_file() and not artifacts.manifest_path(path).is_file():
            raise BadInputError(
                f"{path} has no manifest ({artifacts.manifest_path(path).name}): nothing tells how it was proven.",
                "Take the manifest along with it, or make the file again.",
            )
        models.append(servable.read(path))
    first = models[0].description
    for one in models[1:]:
        own = one.description
        if own.checkpoint_sha256 != first.checkpoint_sha256:
            raise BadInputError(
                f"{one.path} was made from the checkpoint {own.checkpoint_sha256[:16]}, {models[0].path} from "
                f"{first.checkpoint_sha256[:16]}.",
                "A bundle holds files of one checkpoint: make one for each.",
            )
        if own.classes != first.classes or own.preprocess != first.preprocess:
            raise BadInputError(f"{one.path} and {models[0].path} have other classes or preprocessing.")
    return models


def member_name(path: Path) -> str:
    """Return a file's name in a bundle: its own, if that is valid on any system."""
    return file_names.fit(path.stem, longest=_LONGEST_STEM) + path.suffix.lower()


def stage_model(
    model: Servable, folder: Path, images: Path | None, count: int, others: Sequence[Golden]
) -> dict[str, Any]:
    """Copy a model into a folder, with its manifest and its golden images.

    Args:
        model: result of `read_models`.
        folder: folder of the bundle's models.
        images: images to make golden images from, for an ONNX file; an engine has its own.
        count: number of golden images; 0 for none.
        others: golden images of the bundle's engines, which an ONNX file reuses where it can.

    Returns:
        Timings, which are removed from the copied manifest.

    Raises:
        BadInputError: the file or its golden images were changed meanwhile.
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


def golden_of_engines(models: Sequence[Servable]) -> list[Golden]:
    """Read the golden images of the engines among the models.

    Raises:
        BadInputError: some are missing or were changed.
    """
    kept = (model.file.golden() for model in models if model.flavour != "onnx")
    return [one for one in kept if one is not None]


def described_model(model: Servable, folder: Path) -> dict[str, Any]:
    """Return the entry of a staged model for bundle.json."""
    name = member_name(model.path)
    manifest = artifacts.read_manifest(folder / name) or {}
    fields = ("target", "compute_capability", "backend", "backend_version", "platform")
    return {
        "file": name,
        "kind": model.file.kind,
        "precision": model.description.precision,
        "batches": model.batches,
        **{each: manifest[each] for each in fields if each in manifest},
        "sha256": model.sha256,
        "golden_images": len(manifest["golden"]["logits"]) if "golden" in manifest else 0,
        **_compiled(folder / name),
    }


def _compiled(path: Path) -> dict[str, Any]:
    """Return the kernels of a staged engine; nothing for other files and older engines without a census."""
    engine = compiled_engines.read(path)
    if engine is None:
        return {}
    own = engine.to_dict()
    return {name: own[name] for name in ("census", "compiled_precision")}


def without_places(values: Any) -> Any:
    """Copy plain values with this machine's paths shortened to their last one or two parts."""
    if isinstance(values, Mapping):
        return {
            name: "/".join(PurePath(value.lstrip("/")).parts[-_PLACES[name] :])
            if name in _PLACES and isinstance(value, str)
            else without_places(value)
            for name, value in values.items()
        }
    return [without_places(value) for value in values] if isinstance(values, list | tuple) else values


def _golden(model: Servable, images: Path | None, count: int, others: Sequence[Golden]) -> Golden | None:
    if model.flavour != "onnx":
        return model.file.golden()
    model_input = model.description.input
    for other in others if images is None else ():
        if other.pixels.shape[1:] == (model_input.height, model_input.width, 3):
            pixels = np.ascontiguousarray(other.pixels[:count])
            return golden_images.of_pixels(model.path, model.description, pixels, other.source)
    return golden_images.make(model.path, model.description, images, count)


@dataclass(frozen=True)
class Reports:
    """Reports of the models.

    Args:
        verification: JSON of a verification; None without one.
        bench: JSON of a benchmark; None without one.
        notes: remarks for the user.
    """

    verification: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write the reports and their pages into a bundle's folder."""
        if self.verification is not None:
            (folder / VERIFY_JSON).parent.mkdir()
            artifacts.write_json(folder / VERIFY_JSON, self.verification)
            artifacts.write_bytes(folder / VERIFY_PAGE, verification_page.html(self.verification, {}).encode())
        if self.bench is not None:
            (folder / BENCH_JSON).parent.mkdir(exist_ok=True)
            artifacts.write_json(folder / BENCH_JSON, self.bench)
            artifacts.write_bytes(folder / BENCH_PAGE, bench_page.html(self.bench).encode())


def read_reports(verified: Path | None, bench: Path | None, models: Sequence[Servable]) -> Reports:
    """Read the reports and check that they are of these models.

    Args:
        verified: JSON file of a verification.
        bench: JSON file of a benchmark.
        models: models of one checkpoint.

    Raises:
        BadInputError: a report that can't be read, is of another checkpoint, or of none of the files.
        CheckFailedError: a report in which one of the files failed.
    """
    verification, known, notes = None, None, []
    if verified is not None:
        known = accuracy.read(verified)
        verification = without_places(dict(baseline.read(verified).values))
        notes += _require_verified(verified, verification, models)
    timed = None
    if bench is not None:
        timed = without_places(_bench(bench, models))
        if known is not None:
            timed["verified"] = known.beside(timed["timings"])
    return Reports(verification, timed, tuple(notes))


def _require_verified(path: Path, report: dict[str, Any], models: Sequence[Servable]) -> list[str]:
    """Refuse a report of other models, or one in which a model failed; return notes on models that it lacks."""
    _require_checkpoint(path, str(report["checkpoint_sha256"]), models)
    candidates = {one["sha256"]: one for one in (report["reference"], *report["candidates"])}
    seen = [model for model in models if model.sha256 in candidates]
    if not seen:
        named = ", ".join(str(one["file"]) for one in candidates.values())
        raise BadInputError(
            f"{path} is of none of the files, as they are now: it has {named}.",
            "Verify them: `verify(*FILE, data=DIR).to_dict()`.",
        )
    failed = [model.path.name for model in seen if candidates[model.sha256].get("passed") is False]
    if failed:
        missed = "\n  ".join(verification_text.missed(report))
        raise CheckFailedError(f"{', '.join(failed)} failed in {path}:\n  {missed}", "Nothing is bundled that failed.")
    missing = [model.path.name for model in models if model not in seen]
    return [f"{path.name} has nothing of {', '.join(missing)}."] if missing else []


def _bench(path: Path, models: Sequence[Servable]) -> dict[str, Any]:
    hint = "Time them: `benchmark(*FILE, output=BENCH.json)`."
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("bench") != 1:
            raise BadInputError(f"{path} is not the JSON of a benchmark.", hint)
        _require_checkpoint(path, str(report["checkpoint_sha256"]), models)
        seen = {str(timing["sha256"]) for timing in report["timings"]}
        bench_page.html(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} can't be read as a benchmark: {type(error).__name__} {error}.", hint) from error
    if not seen & {model.sha256 for model in models}:
        raise BadInputError(f"{path} is of none of the files, as they are now.", hint)
    if "error" in report:
        raise CheckFailedError(f"{path} has a check that failed: {report['error']}", "Nothing is bundled that failed.")
    return report


def _require_checkpoint(path: Path, stated: str, models: Sequence[Servable]) -> None:
    own = models[0].description.checkpoint_sha256
    if stated != own:
        raise BadInputError(
            f"{path} is of the checkpoint {stated[:16]}; the files were made from {own[:16]}.",
            "Take the report of these files.",
        )
