"""Is this file the model that was validated? Every image goes once through the reference and each candidate.

    from hemf_export import scrutiny, verification
    files = (Path("best.int8.onnx"),)
    found = verification.verify(verification.Request(candidates=files, data=Path("data")))
    found = scrutiny.plan(files).add_to(found)  # what the files store
    print(found.passed, found.to_dict())

What can't be compared is refused before the first image: files of another checkpoint, classes that differ, images that
don't decode. Each image is decoded once for all models, and logits alone are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.image_set import ImageSet
from hemf import artifacts
from hemf.errors import BadInputError, CheckFailedError, UsageError
from hemf.folders import LabelledImages
from hemf.images import PixelArray, Preprocess, decode
from hemf.model_input import ModelInput
from hemf.model_output import ModelOutput
from hemf.processors import usable_cores
from hemf.reading import PLAIN, Reading
from hemf_export import (
    compiled_engines,
    discover,
    image_labels,
    model_kind,
    onnx_file,
    plausibility,
    predict,
    predictor,
    written,
)
from hemf_export.predictor import Predictor
from hemf_export.verify import bounds as bounding
from hemf_export.verify import comparison
from hemf_export.verify.baseline import Earlier
from hemf_export.verify.bounds import Bounds, Missed
from hemf_export.verify.verified import Subject, Verification, Verified
from train import metrics

BATCH = 8
_SHOWN = 3  # names of images in a message

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to verify; see `hemf-export verify --help`.

    Args:
        candidates: files of any kind that `hemf_export.predict` reads.
        data: a data folder (test/, else val/), class folders, or images alone.
        reference: None for what the candidates were made from, a checkpoint or another's float32 ONNX file, where it
            lies beside one of them.
        classes: names, for a reference that has none.
        bounds: what may differ.
        seed: of the bootstrap.
        batch: images at a time.
        reading: how the reference is read; by default as the candidates say it was when they were made.
        earlier: a verification to compare with; refused before the pass where it is of other images.

    Raises:
        UsageError: no candidate, or one that is the reference itself.
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
            raise UsageError("No candidate was named.", "hemf-export verify FILE… --reference CKPT --data DIR")
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")
        for index, path in enumerate(self.candidates):
            others = [*self.candidates[:index], *([self.reference] if self.reference else [])]
            if path.exists() and any(other.exists() and path.samefile(other) for other in others):
                raise UsageError(f"{path} is named twice.", "A file compared with itself shows nothing.")


def verify(request: Request, progress: Progress = lambda phase, done, total: None) -> Verification:
    """Run the reference and the candidates on all images, and compare.

    Args:
        request: what.
        progress: told the phase, how many items are through it, and of how many.

    Raises:
        BadInputError: a file, the images, or files that don't belong together.
        MissingCapabilityError: an engine that can't run here.
    """
    for path in request.candidates:
        if not path.is_file():
            raise BadInputError(f"No file at {path}.", "An ONNX file, an engine or a checkpoint is needed.")
    reference = request.reference or _origin_of(request.candidates)
    paths = [reference, *request.candidates]
    progress("reading the files", 0, len(paths))
    models = [_reference(reference, request)]
    for path in request.candidates:
        progress("reading the files", len(models), len(paths))
        models.append(predict.load(path, for_proof=True))
    _require_same_model(paths, models)
    images, unnamed = image_labels.read(request.data, models[0].classes)
    if request.earlier is not None:
        request.earlier.require(ImageSet(images, models[0].input).to_dict()["names_sha256"], models[0].classes)
    odd = predictor.require_readable(images, progress, [model.input for model in models])
    logits = _logits(models, images, request.batch, progress)
    # Their graphs are let go of: whoever looks into a file next needs the memory.
    models = [dataclasses.replace(model, runner=_Done(model.runner.name)) for model in models]
    subjects = [
        Subject(path, artifacts.sha256(path), model, found, _metrics(images, found, model.output))
        for path, model, found in zip(paths, models, logits, strict=True)
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
    """Of the reference, by its labels."""
    if images.labels is None or not np.isfinite(scores).all():
        return ()
    return plausibility.doubts(plausibility.confusion(images.labels, scores), images.classes)


def _engines(subject: Subject) -> list[dict[str, Any]]:
    """What an engine consists of, or the engines that were made of an ONNX file and lie beside it."""
    if model_kind.kind_of(subject.path) == "engine":
        found = compiled_engines.read(subject.path)
        return [] if found is None else [found.to_dict()]
    return [one.to_dict() for one in compiled_engines.of_graph(subject.path, subject.sha256)]


class _Done:
    """In place of a runner that has run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        raise AssertionError(f"{self.name} was let go of")


def _reference(path: Path, request: Request) -> Predictor:
    """What the candidates are compared with; another's ONNX file as it lies there."""
    if model_kind.kind_of(path) == "onnx" and not onnx_file.is_ours(path):
        return predict.load_origin(path, [*filter(None, map(discover.description_of, request.candidates))])
    # Classes and reading are for a checkpoint; what was exported from it under them says them itself.
    return predict.load(path, request.classes, reading=_reading_of(path, request), for_proof=True)


def _reading_of(reference: Path, request: Request) -> Reading:
    """How the reference is read: as was asked for, else as a candidate that was made from it says."""
    if request.reading != PLAIN:
        return request.reading
    told = [description for path in request.candidates if (description := discover.description_of(path))]
    readings = {one.checkpoint_sha256: one.reading for one in told if one.reading != PLAIN}
    return readings.get(artifacts.sha256(reference), PLAIN) if readings and reference.is_file() else PLAIN


def _origin_of(candidates: Sequence[Path]) -> Path:
    """The checkpoint, or another's ONNX file, that the first candidate was made from, in the folder of one of them."""
    first = candidates[0]
    if model_kind.kind_of(first) == "onnx":
        sha256 = onnx_file.read(first)[1].checkpoint_sha256
    else:
        sha256 = str((artifacts.read_manifest(first) or {}).get("checkpoint_sha256"))
    for folder in dict.fromkeys(path.parent for path in candidates):
        if found := discover.origin_of(folder, sha256):
            return found
    raise BadInputError(
        f"The checkpoint or ONNX file that {first} was made from doesn't lie beside it.", "Name it: --reference FILE."
    )


def _as_written(reference: Subject, candidate: Verified, images: LabelledImages) -> tuple[Verified, dict[str, Any]]:
    """The candidate's file itself, which the emulation stood for: loaded and run as it lies there, on some images."""
    subject = candidate.subject
    batches = ImageSet(images, subject.model.input, subject.model.fixed_batch).batches(BATCH)
    try:
        found = written.check(
            subject.path, subject.path.name, batches, subject.logits, reference.logits, subject.model.output
        )
    except CheckFailedError as error:
        missed = Missed("file_as_written", None, None, error.message)
        return dataclasses.replace(candidate, missed=(*candidate.missed, missed)), {"file_as_written": None}
    return candidate, {"file_as_written": found}


def _require_same_model(paths: Sequence[Path], models: Sequence[Predictor]) -> None:
    """Refuse candidates of another checkpoint than the reference's, or with other classes or another order of them."""
    reference = models[0]
    for path, model in zip(paths[1:], models[1:], strict=True):
        if model.classes != reference.classes:
            kind = "in another order" if set(model.classes) == set(reference.classes) else "others"
            raise BadInputError(
                f"{path} has the classes {', '.join(model.classes)}; {paths[0]} has {', '.join(reference.classes)}: "
                f"{kind}.",
                "Whoever reads its logits would name them wrongly: export it again from this checkpoint.",
            )
        if model.output != reference.output:
            raise BadInputError(
                f"{path} gives {model.output.plural}; {paths[0]} gives {reference.output.plural}.",
                "What differs in kind can't be compared: name the float32 file that it was made from with --reference.",
            )
        # A checkpoint may be the same network in another file; what it computes will tell.
        exported = model_kind.kind_of(path) != "checkpoint"
        if exported and model.checkpoint_sha256 != reference.checkpoint_sha256:
            raise BadInputError(
                f"{path} was made from another checkpoint ({model.checkpoint_sha256[:16] or 'unknown'}) than "
                f"{paths[0]} ({reference.checkpoint_sha256[:16]}).",
                "Name the one that it was made from with --reference, or export it again.",
            )


def _logits(
    models: Sequence[Predictor], images: LabelledImages, batch: int, progress: Progress
) -> list[NDArray[np.float32]]:
    """Every model's logits (n, classes) of all images, in one pass over them."""
    size = max(batch, *(model.fixed_batch or model.filled(batch) for model in models))
    parts: list[list[NDArray[np.float32]]] = [[] for _ in models]
    done = 0
    progress("verifying", 0, len(images))
    for pixels in _pixels(images, [model.input for model in models], size):
        for model, own, part in zip(models, pixels, parts, strict=True):
            part.append(model.logits(own))
        done += len(pixels[0])
        progress("verifying", done, len(images))
    return [np.concatenate(part) for part in parts]


def _pixels(images: LabelledImages, wanted: Sequence[ModelInput], size: int) -> Iterator[list[PixelArray]]:
    """`size` images at a time, decoded once: for each description the pixels (n, H, W, 3) that it keeps of them."""

    def load(path: Path) -> list[PixelArray]:
        image = decode(path)
        made: dict[tuple[Any, ...], PixelArray] = {}
        for taken in wanted:
            if taken.kept not in made:
                made[taken.kept] = taken.pixels(image)
        return [made[taken.kept] for taken in wanted]

    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        for start in range(0, len(images), size):
            loaded = list(pool.map(load, images.paths[start : start + size]))
            yield [np.stack(column) for column in zip(*loaded, strict=True)]


def _metrics(images: LabelledImages, logits: NDArray[np.float32], output: ModelOutput) -> dict[str, Any] | None:
    if images.labels is None or not np.isfinite(logits).all():
        return None
    return metrics.summarize(images.labels, logits, images.classes, output)


def _verified(reference: Subject, candidate: Subject, images: LabelledImages, request: Request) -> Verified:
    labels = None if images.labels is None else np.asarray(images.labels, np.int64)
    paired = comparison.compare(candidate.logits, reference.logits, labels, request.seed, reference.model.output)
    counts = {} if images.labels is None else {name: images.labels.count(i) for i, name in enumerate(images.classes)}
    proof = bounding.proof_of(artifacts.read_manifest(candidate.path))
    allowed = bounding.limits(request.bounds, candidate.model.precision, proof, paired, counts)
    drops = None
    if reference.metrics is not None and candidate.metrics is not None:
        pairs = reference.metrics["recall"], candidate.metrics["recall"]
        drops = {name: 100 * (pairs[0][name] - pairs[1][name]) for name in images.classes}
    missed = _not_finite(reference, candidate, images) or bounding.missed(allowed, paired, drops or {})
    missed = [*_other_preprocessing(reference.model.preprocess, candidate.model.preprocess), *missed]
    return Verified(candidate, paired, allowed, tuple(missed), drops)


def _not_finite(reference: Subject, candidate: Subject, images: LabelledImages) -> list[Missed]:
    """Logits that are not finite, on either side: NaN on both is no agreement, but two faults."""
    found = []
    for subject in (reference, candidate):
        bad = np.flatnonzero(~np.isfinite(subject.logits).all(1))
        if len(bad):
            names = ", ".join(images.paths[index].name for index in bad[:_SHOWN]) + (" …" if len(bad) > _SHOWN else "")
            text = f"{subject.path.name} gives logits that are not finite for {len(bad)} of {len(images)} images"
            found.append(Missed("finite", float(len(bad)), 0.0, f"{text} ({names})"))
    return found


def _other_preprocessing(reference: Preprocess, candidate: Preprocess) -> list[Missed]:
    """A file that describes another preprocessing will be served with it, however close its logits come here."""
    own, other = reference.to_dict(), candidate.to_dict()
    different = [f"{name} {other[name]}, not {own[name]}" for name in own if own[name] != other[name]]
    if not different:
        return []
    return [Missed("preprocessing", None, None, f"it describes another preprocessing: {'; '.join(different)}")]
