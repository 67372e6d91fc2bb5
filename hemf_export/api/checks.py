"""Check files: verification, benchmark, evaluation, and explanations of predictions."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hemf_export.api.places import reserved
from hemf_export.api.results import PathLike, Report, Written, names_of, path_of, paths_of
from hemf_export.files.progress import SILENT, Progress
from hemf_export.metrics.percentage import percentage
from hemf_export.pages.table import Table


@dataclass(frozen=True)
class Verification(Written):
    """Result of a verification: every image through the reference and each candidate."""

    has_graphs: bool = False
    """Whether a candidate is an ONNX file whose nodes `locate` can compare with those of the float32 file."""

    @property
    def passed(self) -> bool:
        """Whether every bound holds for every candidate."""
        return bool(self.values["passed"])

    @property
    def missed(self) -> list[str]:
        """Missed bounds, in words."""
        from hemf_export.verification import text

        return text.missed(self.values)

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}: {self.verdict}"

    @property
    def verdict(self) -> str:
        """Result in one sentence."""
        from hemf_export.verification import text

        return text.verdict(self.values)

    @property
    def table(self) -> Table:
        """Table with a row for the reference and each candidate: accuracy, agreement, largest difference, verdict."""
        from hemf_export.verification import text

        return Table(text.title(self.values), text.COLUMNS, text.rows(self.values), words=(0, 1))

    @property
    def remarks(self) -> list[str]:
        """Remarks on the table: where nodes diverge, and how to read the figures."""
        from hemf_export.verification import text

        return [*text.first_nodes(self.values), *text.footnotes(self.values)]

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        rows = {"verdict": str(self)}
        images = self.values["images"]["images"]
        for candidate in self.values["candidates"]:
            agreement = percentage(candidate["against_reference"]["agreement"], images)
            rows[candidate["file"]] = f"{agreement} of {images} images keep their class"
        return rows


@dataclass(frozen=True)
class Benchmark(Written):
    """Latencies of runners, measured side by side."""

    files: tuple[Path, ...] = ()
    """The named files, or else those in the current folder."""
    problem: str | None = None
    """Failed checks in words: wrong logits, or a ratio that grew beyond its bound; None if all passed."""
    headlines: Mapping[str, str] = field(default_factory=dict)
    """Speed-up of each file over the first one at the first batch size, in words, by file."""
    machine: str = ""
    """Processor, threads and GPU."""
    tables: tuple[Table, ...] = ()
    """Tables of p50, p99, throughput and speed-up by batch size, and of the comparison with the baseline."""
    details: tuple[Table, ...] = ()
    """Tables as in `tables`, with all percentiles, memory, and the target's latency floors."""
    not_run: tuple[tuple[str, str], ...] = ()
    """Runners that were left out, and why."""

    @property
    def passed(self) -> bool:
        """Whether every timed runner gave the reference's logits, and none is slower than the baseline allows."""
        return self.problem is None

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        timings = self.values["timings"]
        return {
            **self.headlines,
            **{f"{one['name']}, batch {one['batch']}": f"{one['latency_ms']['p50']:.3g} ms" for one in timings},
        }


@dataclass(frozen=True)
class Evaluation(Report):
    """Metrics of models on labelled images."""

    path: Path | None = None
    """The folder that the evaluation was written to; None if nothing was written."""
    kinds: tuple[str, ...] = ()
    """Kind of each model's file: `checkpoint`, `onnx` or `engine`."""
    wrong: tuple[Path, ...] = ()
    """Images that the first model misclassifies, the most confident first."""

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
    """Heatmaps of images."""

    path: Path = Path()
    """The folder that the pictures were written to."""

    @property
    def pictures(self) -> list[Path]:
        """One PNG per image: the network's crop, the heatmap, and the overlay."""
        return [self.path / image["picture"] for image in self.values["images"]]

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        images = self.values["images"]
        return {Path(image["image"]).name: f"{image['class']} {image['probability']:.1%}" for image in images}

    def _repr_html_(self) -> str:
        table = super()._repr_html_()
        try:
            data = base64.b64encode(self.pictures[0].read_bytes()).decode()
        except FileNotFoundError:  # the folder was moved or replaced since
            return table
        return f"<img src='data:image/png;base64,{data}'>{table}"


def verify(
    candidates: PathLike | Iterable[PathLike], data: PathLike, *, reference: PathLike | None = None,
    max_drop: float | None = None, min_agreement: float | None = None, max_recall_drop: float | None = None,
    max_logit_difference: float | None = None, locate: bool = False, classes: Sequence[str] | None = None,
    weights: str | None = None, image_size: int | None = None, factory: str | None = None,
    float32: PathLike | None = None,
    baseline: PathLike | None = None, batch: int = 8, seed: int = 0, report: PathLike | None = None,
    thumbnails: bool = True, markdown: PathLike | None = None, progress: Progress = SILENT,
) -> Verification:  # fmt: skip
    """Run every image through the reference and each candidate, and compare.

    Bounds that are not given are the defaults of each file's precision.

    Args:
        candidates: ONNX files and engines.
        data: a data folder (test/, else val/), class folders, or images without labels.
        reference: file to compare with; None for the checkpoint that they were made from, beside them.
        max_drop: largest drop in accuracy, in percentage points.
        min_agreement: smallest share of images that keep their class, 0 to 1.
        max_recall_drop: largest drop in the recall of any class, in percentage points.
        max_logit_difference: largest absolute difference of a logit, or of a probability for files that output those.
        locate: compare node by node, and find the first that stands out.
        classes: class names, for a reference that has none.
        weights: which set of weights of a training checkpoint the reference is.
        image_size: input size in pixels, for a reference that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        float32: the ONNX file that the candidates were converted from; None for the one that their manifests name.
        baseline: JSON of an earlier verification; worse accuracy or agreement than there fails.
        batch: images at a time.
        seed: random seed of the bootstrap.
        report: path of an HTML page to write; None for no page.
        thumbnails: include small pictures of the changed images in the page.
        markdown: path of a summary for a review; None for no summary.
        progress: receives the number of images done.

    Returns:
        The verification, with its verdict in `passed`. A missed bound doesn't raise an error; `require` does.

    Raises:
        BadInputError: a file, the images, files that don't belong together, or a report that can't be written.
        MissingCapabilityError: an engine that can't run here.

    Examples:
        >>> verification = hemf_export.verify(["best.onnx", "best.fp16.onnx"], "data", report="verify.html")
        >>> verification.passed
        True
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.verification import baseline as earlier
    from hemf_export.verification import run
    from hemf_export.verification.bounds import Bounds
    from hemf_export.verification.verification import Request

    request = Request(
        candidates=paths_of(candidates), data=Path(data), reference=path_of(reference), classes=names_of(classes),
        bounds=Bounds(max_drop, min_agreement, max_recall_drop, max_logit_difference), seed=seed, batch=batch,
        earlier=None if baseline is None else earlier.read(Path(baseline)),
        reading=Reading(weights, image_size, factory),
    )  # fmt: skip
    with reserved((report, markdown), (*request.candidates, reference, baseline, float32)):
        outcome = run.run(request, float32=path_of(float32), locate=locate, progress=progress)
        outcome.write(html=path_of(report), markdown=path_of(markdown), thumbnails=thumbnails)
    graphs = any(
        file.kind == "onnx" and (float32 is not None or file.description.precision != "fp32")
        for file in (candidate.subject.file for candidate in outcome.verification.candidates)
    )
    return Verification(outcome.values, outcome.notes, _outcome=outcome, has_graphs=graphs)


def benchmark(
    files: PathLike | Iterable[PathLike] = (), *, batches: int | Sequence[int] | None = None, seconds: float = 30.0,
    runners: str | Sequence[str] | None = None, transfers: Literal["in", "out", "both"] = "in",
    threads: int | None = None, images: PathLike | None = None, memory: bool = True, target: str | None = None,
    verification: Verification | PathLike | None = None, baseline: PathLike | None = None,
    max_slowdown: float = 10.0, weights: str | None = None, image_size: int | None = None, factory: str | None = None,
    output: PathLike | None = None, report: PathLike | None = None, markdown: PathLike | None = None,
    progress: Progress = SILENT,
) -> Benchmark:  # fmt: skip
    """Time a checkpoint, and ONNX files and engines made from it, in alternating rounds.

    Args:
        files: the files; none for those in the current folder.
        batches: one batch size or several; None for 1, 8 and 32, or the files' own.
        seconds: time limit of each batch size.
        runners: one runner or several, such as "eager", "ort-cpu", "engine"; None for the usual ones on this machine.
        transfers: "in" also times the copies to the GPU and back, "out" leaves both there, "both" does both.
        threads: number of threads of each runner on a CPU; None for all usable cores.
        images: folder of images to run on; None for seeded noise.
        memory: measure each runner's peak memory in its own process.
        target: GPU of the roofline; None for this machine's, or a T4.
        verification: verification of these files, to report their accuracy beside their latency.
        baseline: JSON of an earlier run to compare with.
        max_slowdown: allowed growth of a ratio since the baseline, in percent.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        output: path of the JSON; None for no JSON.
        report: path of an HTML page; None for no page.
        markdown: path of Markdown tables for a pull request; None for no tables.
        progress: receives the steps.

    Returns:
        The benchmark; `passed` is whether each runner gave the reference's logits. Runners that didn't aren't timed.

    Raises:
        BadInputError: files of different models, nothing to compare, or a report that can't be written.
        MissingCapabilityError: none of the requested runners runs here.

    Examples:
        >>> benchmark = hemf_export.benchmark(["best.pt", "best.onnx"], batches=[1], seconds=0.5, memory=False)
        >>> benchmark.passed
        True
    """
    from hemf_export.bench import accuracy, lineup, run
    from hemf_export.bench.report import grouped, machine
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.files import artifacts
    from hemf_export.models import discover
    from hemf_export.models.model_file import EngineFile

    named = paths_of(files)
    kinds = lineup.parse_kinds(runners if runners is None or isinstance(runners, str) else ",".join(runners))
    sizes = (batches,) if isinstance(batches, int) else batches
    with artifacts.scratch() as folder:
        verified = None if verification is None else report_file(verification, folder / "verification.json")
        request = run.Request(
            files=named, batches=None if sizes is None else tuple(sizes), seconds=seconds, threads=threads,
            images=path_of(images), kinds=kinds, transfers=transfers, memory=memory, target=target,
            verified=None if verified is None else accuracy.read(verified),
            reading=Reading(weights, image_size, factory),
        )  # fmt: skip
        with reserved((output, markdown, report), (*named, baseline, verified)):
            outcome = run.benchmark(
                request, earlier=path_of(baseline), max_slowdown=max_slowdown / 100, progress=progress
            )
            outcome.write(json=path_of(output), markdown=path_of(markdown), html=path_of(report))
    here = () if named else (file.path for file in (*discover.onnx_files(Path()), *EngineFile.all_in(Path())))
    return Benchmark(
        outcome.values, outcome.notes, _outcome=outcome, files=named or tuple(here), problem=outcome.problem,
        headlines=outcome.report.headlines(), machine=machine(outcome.report.conditions),
        tables=tuple(outcome.tables), details=tuple(outcome.details),
        not_run=tuple(grouped(outcome.report.not_run)),
    )  # fmt: skip


def evaluate(
    models: PathLike | Iterable[PathLike], data: PathLike | Iterable[PathLike], output: PathLike | None = None, *,
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None,
    factory: str | None = None, batch: int = 8,
    force: bool = False, progress: Progress = SILENT,
) -> Evaluation:  # fmt: skip
    """Compute metrics of models on labelled images.

    Args:
        models: checkpoints, ONNX files, engines; several are folds of a cross-validation or runs of one recipe.
        data: a data folder (test/, else val/) or class folders: one for all models, or one per model.
        output: folder for evaluation.json, confusion matrix, ROC curves and predictions.csv; None to write nothing.
        classes: class names, for checkpoints that have none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for checkpoints that leave it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        batch: images at a time.
        force: replace an earlier evaluation in `output`.
        progress: receives the number of images done.

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
        paths_of(models), paths_of(data), names_of(classes), batch, Reading(weights, image_size, factory)
    )
    folder = path_of(output)
    with locks.owned(*([] if folder is None else [folder])):
        if folder is not None:
            artifact_folder.check(folder, evaluation.MARK, force=force)
        result = evaluation.evaluate(request, progress)
        if folder is not None:
            with progress.task("Drawing"):
                evaluation.write(result, folder, force=force)
    return Evaluation(
        result.to_dict(), result.remarks, path=folder, kinds=tuple(one.file.kind for one in result.models),
        wrong=result.models[0].wrong,
    )  # fmt: skip


def explain(
    checkpoint: PathLike, images: PathLike | Iterable[PathLike], output: PathLike | None = None, *,
    class_: str | None = None, classes: Sequence[str] | None = None, weights: str | None = None,
    image_size: int | None = None, factory: str | None = None, feature_layer: str | None = None, batch: int = 8,
    force: bool = False,
    progress: Progress = SILENT,
) -> Explanation:  # fmt: skip
    """Draw heatmaps of the image regions that a class score depends on: Grad-CAM++ of the last feature map.

    Args:
        checkpoint: the model; ONNX files and engines give no gradients.
        images: files, and folders, searched for images at any depth.
        output: folder for the pictures; None for `NAME.explained` beside the checkpoint.
        class_: the class to explain; None for each image's predicted one.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        feature_layer: name of the module whose output the maps are of; None for the last feature map before the
            classifier, which a network of your own doesn't name.
        batch: images at a time.
        force: replace earlier explanations in `output`.
        progress: receives the number of images done.

    Raises:
        BadInputError: the checkpoint or the images.
        UsageError: an ONNX file or an engine, or no such layer.

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
        source, paths_of(images), class_, names_of(classes), batch, Reading(weights, image_size, factory), feature_layer
    )
    folder = explanation.default_folder(source) if output is None else Path(output)
    with locks.owned(folder):
        artifact_folder.check(folder, explanation.MARK, force=force)
        values = explanation.explain(request, folder, force=force, progress=progress)
    notes = list(values["notes"])
    if values["passed_over"]:
        notes.append(f"{len(values['passed_over'])} files passed over, as not images by their names.")
    if empty := sum(image["empty"] for image in values["images"]):
        notes.append(f"Nothing speaks for the class in {empty} of {len(values['images'])} images: empty maps.")
    return Explanation(values, tuple(notes), folder)


def report_file(report: Report | PathLike, place: Path) -> Path:
    """Return a report as a JSON file: itself if it is one, else `place`, which is written."""
    return report.save(place) if isinstance(report, Report) else Path(os.fspath(report))
