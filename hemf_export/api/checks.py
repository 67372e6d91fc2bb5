"""Is a file still the model, how good is it, how fast, and where in an image does it look?"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.api.results import PathLike, Report, Written, paths_of
from hemf_export.files.progress import SILENT, Progress
from hemf_export.metrics.percentage import percentage


@dataclass(frozen=True)
class Verification(Written):
    """Result of a verification: every image through the reference and each candidate."""

    @property
    def passed(self) -> bool:
        """Whether every bound holds for every candidate."""
        return bool(self.values["passed"])

    @property
    def missed(self) -> list[str]:
        """The bounds that were missed, in words."""
        from hemf_export.verification import text

        return text.missed(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        rows = {"verdict": "passed" if self.passed else "failed: " + "; ".join(self.missed)}
        images = self.values["images"]["images"]
        for candidate in self.values["candidates"]:
            agreement = percentage(candidate["against_reference"]["agreement"], images)
            rows[candidate["file"]] = f"{agreement} of {images} images keep their class"
        return rows


@dataclass(frozen=True)
class Benchmark(Written):
    """Latencies of runners, measured side by side."""

    passed: bool = True
    """Whether every runner that was timed gave the reference's logits, and none is slower than the baseline allows."""

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        timings = self.values["timings"]
        return {
            f"{timing['name']}, batch {timing['batch']}": f"{timing['latency_ms']['p50']:.3g} ms" for timing in timings
        }


@dataclass(frozen=True)
class Evaluation(Report):
    """Metrics of models on labelled images."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics of the first model: accuracy, balanced_accuracy, macro_f1, mcc, kappa, auc, ece, brier, …"""
        metrics: Mapping[str, Any] = self.values["models"][0]["metrics"]
        return metrics

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            model["file"]: f"accuracy {percentage(model['metrics']['accuracy'], model['images']['images'])}"
            for model in self.values["models"]
        }


@dataclass(frozen=True)
class Explanation(Report):
    """Heat maps of images, and the folder that they were written to."""

    path: Path = Path()

    @property
    def pictures(self) -> list[Path]:
        """A PNG an image: the crop that the network saw, the map, and both together."""
        return [self.path / image["picture"] for image in self.values["images"]]

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        images = self.values["images"]
        return {Path(image["image"]).name: f"{image['class']} {image['probability']:.1%}" for image in images}

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.pictures[0].read_bytes()).decode()
        return f"<img src='data:image/png;base64,{data}'>{super()._repr_html_()}"


def verify(
    candidates: PathLike | Iterable[PathLike], data: PathLike, *, reference: PathLike | None = None,
    bounds: Mapping[str, float] | None = None, locate: bool = False, classes: Sequence[str] | None = None,
    weights: str | None = None, image_size: int | None = None, float32: PathLike | None = None,
    baseline: PathLike | None = None, batch: int = 8, seed: int = 0, progress: Progress = SILENT,
) -> Verification:  # fmt: skip
    """Run every image through the reference and each candidate, and compare.

    Args:
        candidates: ONNX files and engines.
        data: a data folder (test/, else val/), class folders, or images without labels.
        reference: what they must equal; None for the checkpoint that they were made from, beside them.
        bounds: of `max_drop` and `max_recall_drop` (percentage points), `min_agreement` (0 to 1) and
            `max_logit_difference` (absolute), those that differ from the defaults of each file's precision.
        locate: compare node by node, and find the first that stands out.
        classes: class names, for a reference that has none.
        weights: which set of weights of a training checkpoint the reference is.
        image_size: input size in pixels, for a reference that leaves it open.
        float32: the ONNX file that the candidates were converted from; None for what their manifests name.
        baseline: JSON of an earlier verification; worse accuracy or agreement than there fails.
        batch: images at a time.
        seed: of the bootstrap.
        progress: receives how many images are through.

    Returns:
        A verification; whether it passed, `passed` tells. A bound that is missed raises nothing.

    Raises:
        BadInputError: a file, the images, or files that don't belong together.
        MissingCapabilityError: an engine that can't run here.

    Examples:
        >>> verification = hemf_export.verify(["best.onnx", "best.fp16.onnx"], "data")
        >>> verification.passed
        True
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.verification import baseline as earlier
    from hemf_export.verification import run
    from hemf_export.verification.bounds import Bounds
    from hemf_export.verification.verification import Request

    request = Request(
        candidates=paths_of(candidates), data=Path(data), reference=None if reference is None else Path(reference),
        classes=None if classes is None else tuple(classes), bounds=Bounds(**(bounds or {})), seed=seed, batch=batch,
        earlier=None if baseline is None else earlier.read(Path(baseline)), reading=Reading(weights, image_size),
    )  # fmt: skip
    outcome = run.run(request, float32=None if float32 is None else Path(float32), locate=locate, progress=progress)
    return Verification(outcome.values, outcome.notes, outcome)


def benchmark(
    files: PathLike | Iterable[PathLike] = (), *, batches: Sequence[int] | None = None, seconds: float = 30.0,
    runners: Sequence[str] | None = None, threads: int | None = None, images: PathLike | None = None,
    memory: bool = True, target: str | None = None, verification: Verification | PathLike | None = None,
    baseline: PathLike | None = None, max_slowdown: float = 10.0, progress: Progress = SILENT,
) -> Benchmark:  # fmt: skip
    """Time a checkpoint, ONNX files and engines made from it in turn, round after round.

    Args:
        files: the files; none for what lies in the current folder.
        batches: batch sizes; None for 1, 8 and 32, or the files' own.
        seconds: at most, for each batch size.
        runners: names such as "eager", "ort-cpu", "engine"; None for those that gain something here.
        threads: of each runner on a CPU; None for the cores that may be used.
        images: folder of images to run on; None for seeded noise.
        memory: measure each runner's peak memory in its own process.
        target: GPU of the roofline; None for this machine's, or a T4.
        verification: of these files: their accuracy stands beside their latency.
        baseline: JSON of an earlier run to compare with.
        max_slowdown: how much a ratio may grow since the baseline, in percent.
        progress: receives what is timed.

    Returns:
        A benchmark; `passed` tells whether each runner gave the reference's logits. No wrong runner is timed.

    Raises:
        BadInputError: files of different models, or nothing to compare.
        MissingCapabilityError: nothing of what was asked for runs here.

    Examples:
        >>> benchmark = hemf_export.benchmark(["best.pt", "best.onnx"], batches=[1], seconds=0.5, memory=False)
        >>> benchmark.passed
        True
    """
    from hemf_export.bench import accuracy, lineup, run
    from hemf_export.files import artifacts

    request_files = paths_of(files)
    with artifacts.scratch() as folder:
        verified = None if verification is None else report_file(verification, folder / "verification.json")
        request = run.Request(
            files=request_files, batches=None if batches is None else tuple(batches), seconds=seconds, threads=threads,
            images=None if images is None else Path(images), memory=memory, target=target,
            kinds=lineup.parse_kinds(None if runners is None else ",".join(runners)),
            verified=None if verified is None else accuracy.read(verified),
        )  # fmt: skip
        outcome = run.benchmark(
            request, earlier=None if baseline is None else Path(baseline), max_slowdown=max_slowdown / 100,
            progress=progress,
        )  # fmt: skip
    return Benchmark(outcome.values, outcome.notes, outcome, passed=outcome.problem is None)


def evaluate(
    models: PathLike | Iterable[PathLike], data: PathLike | Iterable[PathLike], output: PathLike | None = None, *,
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None, batch: int = 8,
    force: bool = False, progress: Progress = SILENT,
) -> Evaluation:  # fmt: skip
    """Measure how good models are on labelled images.

    Args:
        models: checkpoints, ONNX files, engines; several are folds of a cross-validation or runs of one recipe.
        data: a data folder (test/, else val/) or class folders: one for all models, or one a model.
        output: folder for evaluation.json, confusion matrix, ROC curves and predictions.csv; None to write nothing.
        classes: class names, for checkpoints that have none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for checkpoints that leave it open.
        batch: images at a time.
        force: replace an earlier evaluation in `output`.
        progress: receives how many images are through.

    Raises:
        BadInputError: a file or the images.
        CheckFailedError: logits that are not finite.

    Examples:
        >>> evaluation = hemf_export.evaluate("best.onnx", "data")
        >>> 0 <= evaluation.metrics["accuracy"] <= 1
        True
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.evaluation import evaluation
    from hemf_export.files import artifact_folder, locks

    request = evaluation.Request(
        paths_of(models), paths_of(data), None if classes is None else tuple(classes), batch,
        Reading(weights, image_size),
    )  # fmt: skip
    folder = None if output is None else Path(output)
    with locks.owned(*([] if folder is None else [folder])):
        if folder is not None:
            artifact_folder.check(folder, evaluation.MARK, force=force)
        result = evaluation.evaluate(request, progress)
        if folder is not None:
            evaluation.write(result, folder, force=force)
    notes = [note for one in result.models for note in one.model.notes]
    return Evaluation(result.to_dict(), tuple(dict.fromkeys([*notes, *result.notes])))


def explain(
    checkpoint: PathLike, images: PathLike | Iterable[PathLike], output: PathLike | None = None, *,
    class_: str | None = None, classes: Sequence[str] | None = None, weights: str | None = None,
    image_size: int | None = None, batch: int = 8, force: bool = False, progress: Progress = SILENT,
) -> Explanation:  # fmt: skip
    """Draw where in images the score of a class comes from: Grad-CAM++ of the last fused feature map.

    Args:
        checkpoint: the model; ONNX files and engines give no gradients.
        images: files, and folders whose images are taken at any depth.
        output: folder for the pictures; None for `NAME.explained` beside the checkpoint.
        class_: the class to explain; None for each image's predicted one.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        batch: images at a time.
        force: replace earlier explanations in `output`.
        progress: receives how many images are through.

    Raises:
        BadInputError: the checkpoint or the images.
        UsageError: an ONNX file or an engine.

    Examples:
        >>> explanation = hemf_export.explain("best.pt", "data/test/dark", "explained")
        >>> explanation.pictures[0].suffix
        '.png'
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.evaluation import explanation
    from hemf_export.files import artifact_folder, locks

    source = Path(checkpoint)
    request = explanation.Request(
        source, paths_of(images), class_, None if classes is None else tuple(classes), batch,
        Reading(weights, image_size),
    )  # fmt: skip
    folder = explanation.default_folder(source) if output is None else Path(output)
    with locks.owned(folder):
        artifact_folder.check(folder, explanation.MARK, force=force)
        values = explanation.explain(request, folder, force=force, progress=progress)
    return Explanation(values, tuple(values["notes"]), folder)


def report_file(report: Report | PathLike, place: Path) -> Path:
    """A report as a JSON file: the file that it is, or `place`, which is written."""
    return report.save(place) if isinstance(report, Report) else Path(os.fspath(report))
