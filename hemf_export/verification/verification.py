"""Verify that files are the model that was validated: run the reference and each candidate on every image once.

Files that can't be compared are refused before the first image: another checkpoint, other classes, images that don't
decode. Each image is decoded once for all models, and only logits are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.calibration.image_set import ImageSet
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.export import graph_writing
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError
from hemf_export.files.model_output import ModelOutput
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import image_labels
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import PixelArray, Preprocess, decode
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics import classification, intervals
from hemf_export.metrics.comparison import Comparison, compare
from hemf_export.models import discover, graph_source, plausibility, predictor
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.models.predictor import Predictor
from hemf_export.precision import compiled_engines
from hemf_export.verification import bounds as bounding
from hemf_export.verification.baseline import Earlier
from hemf_export.verification.bounds import Bounds, Limits, Missed

BATCH = 8
FORMAT = 1  # of the JSON
_SHOWN = 3  # names of images in a message


@dataclass(frozen=True)
class Request:
    """Request for a verification.

    Args:
        candidates: files of any kind that `models.model_file` reads.
        data: a data folder (test/, else val/), class folders, or images alone.
        reference: the file to compare with; None for the checkpoint, or the float32 ONNX file of another tool, that the
            candidates were made from, where it lies beside one of them.
        classes: class names, for a reference that has none.
        bounds: how far the candidates may differ.
        seed: seed of the bootstrap.
        batch: images at a time.
        earlier: a verification to compare with; refused before the first image if it was measured on other images.
        reading: how the reference is read; by default as the candidates' descriptions record it.

    Raises:
        UsageError: no candidate, one that is named twice or is the reference itself, or a batch below 1.
    """

    candidates: tuple[Path, ...]
    data: Path
    reference: Path | None = None
    classes: tuple[str, ...] | None = None
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    batch: int = BATCH
    earlier: Earlier | None = None
    reading: Reading = PLAIN

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UsageError("No candidate was named.", "`verify(*FILE, reference=CKPT, data=DIR)`")
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")
        for index, path in enumerate(self.candidates):
            others = [*self.candidates[:index], *([self.reference] if self.reference else [])]
            if path.exists() and any(other.exists() and path.samefile(other) for other in others):
                raise UsageError(f"{path} is named twice.", "A file compared with itself shows nothing.")


@dataclass(frozen=True)
class Subject:
    """A model and its scores on the images.

    Args:
        file: the file that was run.
        model: read from the file.
        logits: scores (n, classes), in the order of the images.
        metrics: see `metrics.classification.summarize`; None without labels, or where a logit is not finite.
    """

    file: ModelFile
    model: Predictor
    logits: NDArray[np.float32]
    metrics: dict[str, Any] | None

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return self.file.sha256

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        return {
            "file": self.path.name,
            "path": str(self.path),
            "sha256": self.sha256,
            **self.model.to_dict(),
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Verified:
    """A candidate, its comparison with the reference, and the verdict.

    Args:
        subject: the candidate.
        comparison: with the reference.
        limits: the candidate's bounds.
        missed: bounds that don't hold; empty where it passed.
        recall_drops: drop in recall by class, in points; None without labels.
    """

    subject: Subject
    comparison: Comparison
    limits: Limits
    missed: tuple[Missed, ...]
    recall_drops: dict[str, float] | None

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return not self.missed


@dataclass(frozen=True)
class Verification:
    """Result of a verification.

    Args:
        reference: the model that the candidates are compared with.
        candidates: in the order in which they were named.
        images: the images that all models were run on.
        seed: seed of the bootstrap.
        extra: further parts of the report by candidate and name, such as where a file diverges from the float32 one.
        doubts: doubts about the reference itself; see `models.plausibility`.
        notes: remarks on odd images.
    """

    reference: Subject
    candidates: tuple[Verified, ...]
    images: LabelledImages
    seed: int
    extra: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return all(candidate.passed for candidate in self.candidates)

    def name_of(self, index: int) -> str:
        """Name an image as reports do, by its path below the folder."""
        return self.images.paths[index].relative_to(self.images.root).as_posix()

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, without NaN: the report, from which every other form is made."""
        images = ImageSet(self.images, self.reference.model.description.input).to_dict()
        return {
            "verification": FORMAT,
            "passed": self.passed,
            "classes": list(self.reference.model.description.classes),
            "images": {**images, "path": str(self.images.root), "labelled": self.images.labels is not None},
            "checkpoint_sha256": self.reference.model.description.checkpoint_sha256,
            "seed": self.seed,
            "reference": self.reference.to_dict(),
            "doubts": list(self.doubts),
            "candidates": [self._candidate(candidate) for candidate in self.candidates],
            "versions": artifacts.versions(),
        }

    def _candidate(self, candidate: Verified) -> dict[str, Any]:
        comparison = candidate.comparison
        kept = comparison.images - len(comparison.changed) - len(comparison.not_finite)
        return {
            **candidate.subject.to_dict(),
            "passed": candidate.passed,
            "missed": [dict(vars(missed)) for missed in candidate.missed],
            "bounds": candidate.limits.to_dict(),
            "against_reference": {
                **comparison.to_dict(),
                "agreement_interval": list(intervals.of_share(kept, comparison.images)),
                "recall_drops_points": candidate.recall_drops,
            },
            "not_finite_images": [self.name_of(index) for index in comparison.not_finite],
            "changed_images": [self._changed(candidate, index) for index in comparison.changed],
            **self.extra.get(str(candidate.subject.path), {}),
        }

    def _changed(self, candidate: Verified, index: int) -> dict[str, Any]:
        labels, classes = self.images.labels, self.reference.model.description.classes
        return {
            "image": self.name_of(index),
            "label": None if labels is None else classes[labels[index]],
            "reference": _of_image(self.reference, index),
            "candidate": _of_image(candidate.subject, index),
        }


def verify(request: Request, progress: Progress = SILENT) -> Verification:
    """Run the reference and the candidates on all images, and compare.

    Args:
        request: files, images and bounds.
        progress: receives the steps.

    Raises:
        BadInputError: a file or the images can't be used, or the files don't belong together.
        MissingCapabilityError: an engine can't run here.
    """
    for path in request.candidates:
        if not path.is_file():
            raise BadInputError(f"No file at {path}.", "An ONNX file, an engine or a checkpoint is needed.")
    exported = [ModelFile.open(path) for path in request.candidates]
    files = [_reference(exported, request), *exported]
    models: list[Predictor] = []
    with progress.task("Reading the files", len(files), "files") as task:
        for file in files:
            models.append(file.predictor(for_proof=True))
            task.advance()
    _require_same_model(files, models)
    images, unnamed = image_labels.read(request.data, models[0].description.classes)
    if request.earlier is not None:
        request.earlier.require(
            ImageSet(images, models[0].description.input).to_dict()["names_sha256"], models[0].description.classes
        )
    odd = predictor.require_readable(images, progress, [model.description.input for model in models])
    logits = _logits(models, images, request.batch, progress)
    # Free the graphs: comparing nodes next needs the memory.
    models = [dataclasses.replace(model, runner=_Done(model.runner.name)) for model in models]
    subjects = [
        Subject(file, model, scores, _metrics(images, scores, model.description.output))
        for file, model, scores in zip(files, models, logits, strict=True)
    ]
    candidates = [_verified(subjects[0], subject, images, request) for subject in subjects[1:]]
    extra: dict[str, Any] = {}
    for place, candidate in enumerate(candidates):
        if candidate.subject.model.emulated:
            candidates[place], extra[str(candidate.subject.path)] = _as_written(subjects[0], candidate, images)
    for candidate in candidates:
        if engines := _engines(candidate.subject):
            extra.setdefault(str(candidate.subject.path), {})["engines"] = engines
    doubts = _doubts(images, logits[0])
    return Verification(subjects[0], tuple(candidates), images, request.seed, extra, doubts, (*unnamed, *odd))


def _doubts(images: LabelledImages, scores: NDArray[np.float32]) -> tuple[str, ...]:
    """List doubts about the reference, from its labels."""
    if images.labels is None or not np.isfinite(scores).all():
        return ()
    return plausibility.doubts(plausibility.confusion(images.labels, scores), images.classes)


def _engines(subject: Subject) -> list[dict[str, Any]]:
    """Describe the kernels of an engine, or of the engines that were built from an ONNX file and lie beside it."""
    if subject.file.kind == "engine":
        engine = compiled_engines.read(subject.path)
        return [] if engine is None else [engine.to_dict()]
    return [one.to_dict() for one in compiled_engines.of_graph(subject.path, subject.sha256)]


class _Done:
    """Stand-in for a runner that was freed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        raise AssertionError(f"{self.name} was freed")


def _reference(candidates: Sequence[ModelFile], request: Request) -> ModelFile:
    """Open the file that the candidates are compared with; the ONNX file of another tool is run as it is."""
    file = _origin_of(candidates) if request.reference is None else ModelFile.open(request.reference)
    descriptions = [description for one in candidates if (description := one.stored_description) is not None]
    if isinstance(file, OnnxFile) and not file.is_ours:
        return graph_source.origin(file, descriptions)
    # Classes and reading are for a checkpoint; files that were exported from it with them record them.
    readings = {one.checkpoint_sha256: one.reading for one in descriptions if one.reading != PLAIN}
    recorded = readings.get(file.sha256, PLAIN) if readings else PLAIN
    return file.read_as(classes=request.classes, reading=request.reading.or_recorded(recorded))


def _origin_of(candidates: Sequence[ModelFile]) -> ModelFile:
    """Find the checkpoint, or another tool's ONNX file, that the first candidate was made from, beside a candidate."""
    first = candidates[0]
    if first.kind == "checkpoint":
        raise BadInputError(
            f"{first.path} is a checkpoint: ONNX files and engines are compared with one.",
            "Name the files that were made from it, or what it must equal: `reference=FILE`.",
        )
    if isinstance(first, OnnxFile):
        sha256 = first.read_ours()[1].checkpoint_sha256
    else:
        sha256 = str((first.manifest or {}).get("checkpoint_sha256"))
    for folder in dict.fromkeys(file.path.parent for file in candidates):
        if origin := discover.origin_of(folder, sha256):
            return origin
    raise BadInputError(
        f"The checkpoint or ONNX file that {first.path} was made from doesn't lie beside it.",
        "Name it: `reference=FILE`.",
    )


def _as_written(reference: Subject, candidate: Verified, images: LabelledImages) -> tuple[Verified, dict[str, Any]]:
    """Run the file itself, not the emulation that stood in for it, on some images."""
    subject = candidate.subject
    batches = ImageSet(images, subject.model.description.input, subject.model.fixed_batch).batches(BATCH)
    try:
        check = graph_writing.check_written(
            subject.path, subject.path.name, batches, subject.logits, reference.logits, subject.model.description.output
        )
    except CheckFailedError as error:
        missed = Missed("file_as_written", None, None, error.message)
        return dataclasses.replace(candidate, missed=(*candidate.missed, missed)), {"file_as_written": None}
    return candidate, {"file_as_written": check}


def _require_same_model(files: Sequence[ModelFile], models: Sequence[Predictor]) -> None:
    """Refuse candidates of another checkpoint than the reference's, or with other classes or another order of them."""
    reference, origin = models[0].description, files[0].path
    for file, model in zip(files[1:], models[1:], strict=True):
        path, own = file.path, model.description
        if own.classes != reference.classes:
            kind = "in another order" if set(own.classes) == set(reference.classes) else "others"
            raise BadInputError(
                f"{path} has the classes {', '.join(own.classes)}; {origin} has {', '.join(reference.classes)}: "
                f"{kind}.",
                "Whoever reads its logits would name them wrongly: export it again from this checkpoint.",
            )
        if own.output != reference.output:
            raise BadInputError(
                f"{path} gives {own.output.plural}; {origin} gives {reference.output.plural}.",
                "What differs in kind can't be compared: name the float32 file that it was made from with `reference`.",
            )
        # A checkpoint may be the same network in another file; its logits will show it.
        mine, theirs = own.checkpoint_sha256, reference.checkpoint_sha256
        if file.kind != "checkpoint" and mine != theirs:
            raise BadInputError(
                f"{path} was made from another checkpoint ({mine[:16] or 'unknown'}) than {origin} ({theirs[:16]}).",
                "Name the one that it was made from with `reference`, or export it again.",
            )


def _logits(
    models: Sequence[Predictor], images: LabelledImages, batch: int, progress: Progress
) -> list[NDArray[np.float32]]:
    """Compute every model's logits (n, classes) in one pass over the images."""
    size = max(batch, *(model.batch_size(batch) for model in models))
    parts: list[list[NDArray[np.float32]]] = [[] for _ in models]
    with progress.task("Verifying", len(images), "images") as task:
        for pixels in _pixels(images, [model.description.input for model in models], size):
            for model, own, part in zip(models, pixels, parts, strict=True):
                part.append(model.logits(own))
            task.advance(len(pixels[0]))
    return [np.concatenate(part) for part in parts]


def _pixels(images: LabelledImages, inputs: Sequence[ModelInput], size: int) -> Iterator[list[PixelArray]]:
    """Decode `size` images at a time, once each, and yield the pixels (n, H, W, 3) that each input keeps of them."""

    def load(path: Path) -> list[PixelArray]:
        image = decode(path)
        by_kept: dict[tuple[Any, ...], PixelArray] = {}
        for model_input in inputs:
            if model_input.kept not in by_kept:
                by_kept[model_input.kept] = model_input.pixels(image)
        return [by_kept[model_input.kept] for model_input in inputs]

    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        for start in range(0, len(images), size):
            loaded = list(pool.map(load, images.paths[start : start + size]))
            yield [np.stack(column) for column in zip(*loaded, strict=True)]


def _metrics(images: LabelledImages, logits: NDArray[np.float32], output: ModelOutput) -> dict[str, Any] | None:
    if images.labels is None or not np.isfinite(logits).all():
        return None
    return classification.summarize(images.labels, logits, images.classes, output)


def _verified(reference: Subject, candidate: Subject, images: LabelledImages, request: Request) -> Verified:
    labels = None if images.labels is None else np.asarray(images.labels, np.int64)
    compared = compare(
        candidate.logits, reference.logits, labels, output=reference.model.description.output, seed=request.seed
    )
    counts = {} if images.labels is None else {name: images.labels.count(i) for i, name in enumerate(images.classes)}
    proof = bounding.proof_of(candidate.file.manifest)
    allowed = bounding.limits(
        request.bounds, candidate.model.description.precision, proof, compared, counts,
        on_gpu=candidate.file.kind == "engine",
    )  # fmt: skip
    drops = None
    if reference.metrics is not None and candidate.metrics is not None:
        pairs = reference.metrics["recall"], candidate.metrics["recall"]
        drops = {name: 100 * (pairs[0][name] - pairs[1][name]) for name in images.classes}
    missed = _not_finite(reference, candidate, images) or bounding.missed(allowed, compared, drops or {})
    missed = [
        *_other_preprocessing(reference.model.description.preprocess, candidate.model.description.preprocess),
        *missed,
    ]
    return Verified(candidate, compared, allowed, tuple(missed), drops)


def _not_finite(reference: Subject, candidate: Subject, images: LabelledImages) -> list[Missed]:
    """List models with logits that aren't finite: NaN on both sides is no agreement, but two faults."""
    violations = []
    for subject in (reference, candidate):
        bad = np.flatnonzero(~np.isfinite(subject.logits).all(1))
        if len(bad):
            names = ", ".join(images.paths[index].name for index in bad[:_SHOWN]) + (" …" if len(bad) > _SHOWN else "")
            text = f"{subject.path.name} gives logits that are not finite for {len(bad)} of {len(images)} images"
            violations.append(Missed("finite", float(len(bad)), 0.0, f"{text} ({names})"))
    return violations


def _other_preprocessing(reference: Preprocess, candidate: Preprocess) -> list[Missed]:
    """Report another preprocessing: the file will be served with it, however close its logits are here."""
    own, other = reference.to_dict(), candidate.to_dict()
    different = [f"{name} {other[name]}, not {own[name]}" for name in own if own[name] != other[name]]
    if not different:
        return []
    return [Missed("preprocessing", None, None, f"it describes another preprocessing: {'; '.join(different)}")]


def _of_image(subject: Subject, index: int) -> dict[str, Any]:
    """Return class and probabilities of one image; None where its logits aren't finite."""
    classes, logits = subject.model.description.classes, subject.logits[index]
    known = bool(np.isfinite(logits).all())
    probabilities = (
        subject.model.description.output.probabilities(logits[None])[0].tolist() if known else [None] * len(classes)
    )
    return {
        "class": classes[int(logits.argmax())] if known else None,
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }
