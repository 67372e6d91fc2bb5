"""Steps from a checkpoint to a bundle: each calls what its own command calls. Heavy imports wait until a step runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemf_export.files import artifacts
from hemf_export.files.progress import Progress
from hemf_export.models import file_kinds
from hemf_export.shipping import records
from hemf_export.shipping.options import Options

if TYPE_CHECKING:
    from hemf_export.images.model_input import SourceSize
    from hemf_export.precision.trial_engine import Compiler

Result = tuple[list[Path], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """Shipment of one checkpoint.

    Args:
        name: name of all its files.
        checkpoint: the checkpoint.
        data: folder of images.
        folder: output folder.
        options: options of all steps.
        progress: receives what the steps report.
    """

    name: str
    checkpoint: Path
    data: Path
    folder: Path
    options: Options
    progress: Progress

    def file(self, suffix: str) -> Path:
        """Output file with this extension."""
        return self.folder / f"{self.name}{suffix}"

    @property
    def golden_source(self) -> Path | None:
        """Folder of golden images; None for noise."""
        return None if self.options.noise else self.data


def onnx(job: Job) -> Result:
    """Export the float32 file, proven against PyTorch on the images, after checking what later steps need."""
    from hemf_export.export import onnx_export
    from hemf_export.images.model_input import SourceSize

    options = job.options
    size = SourceSize.parse(options.source_size) if options.source_size else None
    _require(job, size)
    wanted = onnx_export.Options(input_type=options.input, source_size=size, images=job.data)
    done = onnx_export.export(
        job.checkpoint, job.file(".onnx"), wanted, classes=options.class_names, reading=options.reading,
        progress=job.progress,
    )  # fmt: skip
    _tell(job, done.notes)
    return [done.path, artifacts.manifest_path(done.path)], {}


def _require(job: Job, size: SourceSize | None) -> None:
    """Check at the start what a later step would refuse: images of other classes, a missing builder.

    Raises:
        BadInputError: the checkpoint or the images.
        MissingCapabilityError: this machine has no builder for the target.
    """
    from hemf_export.calibration import image_set
    from hemf_export.checkpoints import checkpoint
    from hemf_export.engines import backends, targets
    from hemf_export.images import folders
    from hemf_export.images.model_input import ModelInput

    options = job.options
    backends.load(backends.choose(options.backend, targets.find(options.target)))
    with job.progress.task(f"Looking at {job.data}"):
        saved = checkpoint.load(job.checkpoint, classes=options.class_names, reading=options.reading)
        numbered = tuple(f"class_{index}" for index in range(len(saved.classes)))
        classes = None if saved.classes == numbered else saved.classes  # placeholders match any names
        image_set.select(job.data, ModelInput(saved.preprocess, options.input == "uint8", size), classes)
        folders.any_images(job.data, classes)


def _compiler(job: Job) -> Compiler:
    """Backend and target of the engine."""
    from hemf_export.engines import backends, targets
    from hemf_export.engines.options import BatchProfile
    from hemf_export.precision.trial_engine import Compiler

    options, target = job.options, targets.find(job.options.target)
    return Compiler(backends.choose(options.backend, target), target, BatchProfile.parse(options.batch).optimum)


def precision(job: Job) -> Result:
    """Quantize to FP16 or INT8."""
    from hemf_export.calibration.budget import Budget
    from hemf_export.precision import quantize
    from hemf_export.precision.quantization_request import Request

    options = job.options
    budget = Budget(options.max_drop, None, options.metric) if options.precision == "auto" else None
    request = Request(
        source=job.file(".onnx"), precision="int8" if budget else "fp16", images=job.data, budget=budget,
        compiler=_compiler(job), cache=artifacts.cache_folder(), force=True,
    )  # fmt: skip
    quantized = quantize.make(request, job.progress)
    _tell(job, quantized.notes)
    facts = {"graph": quantized.path.name, "precision": quantized.description.precision}
    return [quantized.path, artifacts.manifest_path(quantized.path), *quantized.reports], facts


def engine(job: Job, graph: Path, key: str) -> Result:
    """Build the engine, with golden images, or copy one that this machine built from the same inputs.

    Args:
        job: the shipment.
        graph: FP16 or INT8 file.
        key: key of everything that the engine depends on.
    """
    if (kept := records.take_engine(key, job.folder)) is not None:
        job.progress.note(
            f"{kept[0].name} was built on this machine before, from the same inputs: it is copied from the cache."
        )
        return kept, {"engine": kept[0].name}
    files, facts = _build(job, graph)
    records.keep_engine(key, files)
    return files, facts


def _build(job: Job, graph: Path) -> Result:
    from hemf_export.engines import golden, targets
    from hemf_export.engines.options import BatchProfile
    from hemf_export.precision import build_engine
    from hemf_export.precision.build_engine import Wanted

    options = job.options
    target = targets.find(options.target)
    output = graph.with_name(f"{file_kinds.stem(graph)}.{target.name}.engine")
    request = build_engine.Request(
        model=graph, target=target, output=output, backend=options.backend,
        profiles=(BatchProfile.parse(options.batch),), golden=options.golden,
        wanted=Wanted(precision=None, images=job.golden_source), force=True,
    )  # fmt: skip
    built = build_engine.make(request, job.progress)
    _tell(job, built.notes)
    files = [output, artifacts.manifest_path(output), *([golden.place(output)] if options.golden else [])]
    return files, {"engine": output.name}


def verify(job: Job, candidates: list[Path]) -> Result:
    """Verify the files against the checkpoint on every image; JSON and page are written in any case.

    Raises:
        CheckFailedError: a bound is exceeded.
    """
    from hemf_export.bundles.contents import without_places
    from hemf_export.verification import run
    from hemf_export.verification.verification import Request

    request = Request(
        candidates=tuple(candidates),
        data=job.data,
        reference=job.checkpoint,
        classes=job.options.class_names,
        reading=job.options.reading,
    )
    verification = run.run(request, progress=job.progress)
    values = without_places(verification.values)  # files don't depend on the folder's path
    report, page = job.file(".verify.json"), job.file(".verify.html")
    artifacts.write_json(report, values)
    dataclasses.replace(verification, values=values).write(html=page)
    verification.require(f"{page} has all of it.")
    last, reference = values["candidates"][-1], values["reference"]
    labelled = last["metrics"] is not None and reference["metrics"] is not None
    facts = {
        "images": values["images"]["images"],
        "accuracy": last["metrics"]["accuracy"] if labelled else None,
        "reference_accuracy": reference["metrics"]["accuracy"] if labelled else None,
        "agreement": last["against_reference"]["agreement"],
    }
    return [report, page], facts


def bench(job: Job, files: list[Path], batches: tuple[int, ...], verified: Path, *, shipped: Sequence[Path]) -> Result:
    """Measure the latency of the checkpoint and the files.

    Raises:
        CheckFailedError: logits of a file in `shipped` that differ from the reference's; others are only compared with.
    """
    from hemf_export.bench import accuracy, run

    request = run.Request(
        files=(job.checkpoint, *files), batches=batches, seconds=job.options.bench_seconds, images=job.data,
        memory=False, verified=accuracy.read(verified), judged=tuple(shipped), reading=job.options.reading,
    )  # fmt: skip
    benchmark = run.benchmark(request, progress=job.progress)
    benchmark.require()
    report, page = job.file(".bench.json"), job.file(".bench.html")
    benchmark.write(json=report, html=page)
    _tell(job, benchmark.notes)
    return [report, page], {}


def bundle(job: Job, files: list[Path], verified: Path, timed: Path | None) -> Result:
    """Pack the files into a bundle."""
    from hemf_export.bundles import making, model_card

    options = job.options
    request = making.Request(
        files=tuple(files), output=job.file(".tar.zst"), verified=verified, bench=timed, golden=options.golden,
        images=job.golden_source, use=model_card.read_use(Path(options.use)) if options.use else None,
        checkpoint=job.checkpoint, factory=options.factory or None, triton=options.triton, cpp=options.cpp, force=True,
    )  # fmt: skip
    packed = making.make(request, job.progress)
    _tell(job, packed.notes)
    facts = {
        "bundle": packed.path.name,
        "size_bytes": packed.path.stat().st_size,
        "sha256": packed.sha256,
        "contents_sha256": packed.index.contents_sha256,
    }
    return [packed.path], facts


def _tell(job: Job, notes: Iterable[str]) -> None:
    for note in notes:
        job.progress.note(note)
