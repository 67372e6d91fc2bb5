"""Pack files and their proofs into a bundle for the target, run all steps in one, and test a bundle on the target."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemf_export.api.checks import Benchmark, Verification, report_file
from hemf_export.api.results import BundleFile, PathLike, Report, Shown, path_of, paths_of
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from hemf_export.shipping.options import Options as ShipOptions


@dataclass(frozen=True)
class Shipment(Shown):
    """Result of shipping a checkpoint.

    Args:
        name: name of its files.
        path: path of the bundle, which is missing after a failure.
        values: results of all steps, in plain types.
        error: why it failed; None if it succeeded.
    """

    name: str
    path: Path
    values: Mapping[str, Any] = field(repr=False)
    error: Exception | None = None

    @property
    def is_new(self) -> bool:
        """Whether anything was done, or failed; False if everything was up to date."""
        return bool(self.values["made"]) or self.error is not None

    def to_dict(self) -> dict[str, Any]:
        """Convert the results of all steps to plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        outcome = str(self.path) if self.error is None else f"failed at {self.values['failed_at'] or 'the start'}"
        return {"bundle": outcome, "precision": str(self.values.get("precision"))}


@dataclass(frozen=True)
class SelfTest(Report):
    """Result of the self-test of a bundle or an engine on this machine."""

    @property
    def passed(self) -> bool:
        """Whether everything that runs here gives the expected logits."""
        return bool(self.values["passed"])

    @property
    def verdict(self) -> str:
        """Result in one sentence."""
        if "models" not in self.values:
            return f"{'passed' if self.passed else 'FAILED'}: {self.values['file']}"
        outcomes = [model["outcome"] for model in self.values["models"]]
        passed, not_run = outcomes.count("passed"), outcomes.count("not run")
        word = "FAILED" if "failed" in outcomes else "passed" if passed else "not run"
        skipped = f", {not_run} can't run here" if not_run else ""
        return f"{word}: {passed} of {len(outcomes)} models compute here what they were proven to{skipped}"

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        outcomes = {model["file"]: str(model["outcome"]) for model in self.values.get("models", ())}
        return {"verdict": self.verdict, **outcomes}


def bundle(
    files: PathLike | Iterable[PathLike], output: PathLike, *, verification: Verification | PathLike | None = None,
    benchmark: Benchmark | PathLike | None = None, images: PathLike | None = None, golden: int = 4,
    use: PathLike | None = None, checkpoint: PathLike | None = None, triton: bool = True, name: str | None = None,
    cpp: bool = True, factory: str | None = None, force: bool = False, progress: Progress = SILENT,
) -> BundleFile:  # fmt: skip
    """Pack model files of one checkpoint into an archive, with everything to prove and serve them.

    Args:
        files: ONNX files and engines with their manifests.
        output: path of the bundle, `NAME.tar.zst`.
        verification: verification of these files, to include; a failed one is refused.
        benchmark: benchmark of these files, to include.
        images: folder of golden images for ONNX files; None for those of the engines, else noise.
        golden: number of golden images; 0 for none.
        use: text file for the model card on what the model is for.
        checkpoint: checkpoint with the training record for the model card; None looks for it beside the files.
        triton: include a model repository for Triton.
        name: name of the model in that repository; None for the file's name.
        cpp: include the C++ library and its example.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        force: replace an existing bundle.
        progress: receives the steps.

    Raises:
        BadInputError: files of different checkpoints, or reports of other files.
        CheckFailedError: a verification in which a file failed.

    Examples:
        >>> packed = hemf_export.bundle("best.onnx", "best.tar.zst", cpp=False, triton=False)
        >>> hemf_export.self_test(packed).passed
        True
    """
    from hemf_export.bundles import making, model_card
    from hemf_export.files import artifacts

    with artifacts.scratch() as folder:
        request = making.Request(
            files=paths_of(files), output=Path(output),
            verified=None if verification is None else report_file(verification, folder / "verification.json"),
            bench=None if benchmark is None else report_file(benchmark, folder / "benchmark.json"),
            images=path_of(images), golden=golden, use=None if use is None else model_card.read_use(Path(use)),
            checkpoint=path_of(checkpoint), factory=factory, triton=triton, served_as=name, cpp=cpp,
            force=force,
        )  # fmt: skip
        packed = making.make(request, progress)
    return BundleFile(
        packed.path, packed.index.about, packed.notes, sha256=packed.sha256,
        contents_sha256=packed.index.contents_sha256, files=len(packed.index.members) + 2,
    )  # fmt: skip


def self_test(
    file: PathLike, *, keep: PathLike | None = None, strict: bool = False, max_slowdown: float | None = None,
    cuda_graphs: bool = True, progress: Progress = SILENT,
) -> SelfTest:  # fmt: skip
    """Test a bundle or an engine on this machine: hashes first, then golden images through everything that runs here.

    Args:
        file: a bundle, or an engine with its manifest.
        keep: folder to unpack the bundle into if it passes; None to unpack it only for the test.
        strict: fail if a model of the bundle can't run here.
        max_slowdown: allowed slow-down against the bundle's benchmark, in percent; None for the default rule.
        cuda_graphs: launch engines as captured graphs.
        progress: receives the steps, and the result as an event before an error is raised.

    Raises:
        UsageError: `keep`, `strict` or `max_slowdown` with an engine.
        BadInputError: a bundle that was changed.
        CheckFailedError: a logit differs by more than the manifest allows.
        MissingCapabilityError: none of its models can run here.

    Examples:
        >>> hemf_export.self_test("best.tar.zst").passed
        True
    """
    from hemf_export.bundles import archive, latency, trial
    from hemf_export.models.model_file import EngineFile

    path = Path(file)
    if not archive.looks_like_one(path):
        if keep is not None or max_slowdown is not None or strict:
            raise UsageError(
                "`keep`, `max_slowdown` and `strict` apply to bundles only.", f"{path} is read as an engine."
            )
        with progress.task(f"Running {path.name} on its golden images"):
            tested = EngineFile.open(path).self_test(cuda_graphs=cuda_graphs)
        return SelfTest({"file": str(path), **tested.to_dict()}, tested.notes)
    latency.require_bound(max_slowdown)
    with trial.opened(path, path_of(keep), progress) as (folder, index):
        tried = trial.run(folder, index, cuda_graphs=cuda_graphs, max_slowdown=max_slowdown, progress=progress)
        values = {
            "file": str(path), "passed": tried.passed, "files": len(index.members) + 2,
            "contents_sha256": index.contents_sha256, "models": [model.to_dict() for model in tried.models],
        }  # fmt: skip
        result = SelfTest(values, tuple(f"{model.file}: {note}" for model in tried.models for note in model.notes))
        progress.event(result)
        tried.require(path, strict=strict)
    return result


def ship(
    checkpoint: PathLike, data: PathLike, output: PathLike, *, target: str = "t4", max_drop: float = 0.5,
    precision: Literal["auto", "fp16"] = "auto", metric: Literal["accuracy", "balanced-accuracy"] = "accuracy",
    backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto", batch: str = "1:8:32",
    input: Literal["float32", "uint8"] = "float32", source_size: str | None = None,
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None,
    factory: str | None = None,
    bench: bool = True, bench_seconds: float = 10.0, golden: int = 4, noise: bool = False, triton: bool = True,
    cpp: bool = True, use: PathLike | None = None, name: str | None = None, progress: Progress = SILENT,
) -> Shipment:  # fmt: skip
    """Take a checkpoint to a bundle: export, precision within a budget, engine, verification, benchmark, archive.

    Steps already done with the same inputs aren't repeated.

    Args:
        checkpoint: the model.
        data: data folder: train/ calibrates, val/ chooses the precision, test/ verifies.
        output: folder for all files.
        target: GPU or compute capability.
        max_drop: largest drop of the metric by INT8, in percentage points.
        precision: "auto" uses INT8 if the engine is modelled 5 % faster within `max_drop`, else FP16.
        metric: what `max_drop` is measured in.
        backend: "auto" uses TensorRT on a GPU of the target's kind, else TensorRT-RTX.
        batch: "MIN:OPT:MAX" batch sizes of the engine.
        input: "float32" takes normalized images, "uint8" raw pixels.
        source_size: "HEIGHTxWIDTH" of raw images that the model resizes itself.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        bench: measure latency.
        bench_seconds: time limit of the benchmark for each batch size.
        golden: number of golden images in the bundle; 0 for none.
        noise: use noise as golden images, so that the bundle has no image of the data.
        triton: include a model repository for Triton.
        cpp: include the C++ library and its example.
        use: text file for the model card on what the model is for.
        name: name of the files, and of the model in Triton; None for the checkpoint's.
        progress: receives the steps, and each `CheckpointBegun` and `StepBegun` as an event.

    Raises:
        HemfError: the error of the step that failed.

    Examples:
        >>> shipment = hemf_export.ship("best.pt", "data", "shipped", precision="fp16", bench=False, triton=False)
        >>> shipment.path.name
        'best.tar.zst'
    """
    from hemf_export.files.errors import BadInputError
    from hemf_export.shipping.options import Options

    if Path(checkpoint).is_dir():
        raise BadInputError(f"{checkpoint} is a folder.", "Name a checkpoint; `ship_all` takes folders.")
    options = Options(
        target=target, max_drop=max_drop, precision=precision, metric=metric, backend=backend, batch=batch,
        input=input, source_size=source_size or "", classes=",".join(classes or ()), weights=weights or "",
        image_size=image_size or 0, factory=factory or "", bench=bench, bench_seconds=bench_seconds, golden=golden,
        noise=noise,
        triton=triton, cpp=cpp, use="" if use is None else os.fspath(use),
    )  # fmt: skip
    (shipment,) = ship_all(checkpoint, data, output, options=options, name=name, progress=progress)
    if shipment.error is not None:
        raise shipment.error
    return shipment


def ship_all(
    checkpoints: PathLike, data: PathLike, output: PathLike, *, options: ShipOptions | None = None,
    name: str | None = None, progress: Progress = SILENT,
) -> tuple[Shipment, ...]:  # fmt: skip
    """Take every checkpoint of a folder to a bundle; one that fails doesn't stop the others. See `ship`.

    Args:
        checkpoints: a folder, for its checkpoints except last.pt, or else each best.pt below it; or one checkpoint.
        data: data folder: train/ calibrates, val/ chooses the precision, test/ verifies.
        output: folder for all files, with a subfolder for each of several checkpoints.
        options: options for all checkpoints; `ShipOptions.read` reads a TOML file of them.
        name: name of the files, and of the model in Triton, for a single checkpoint.
        progress: receives the steps, and each `CheckpointBegun` and `StepBegun` as an event.

    Returns:
        A shipment for each checkpoint, with `error` set if it failed.

    Raises:
        UsageError: invalid options, or two checkpoints whose files would have the same name.
        BadInputError: no checkpoint, the images, or a folder that can't be written.
        MissingCapabilityError: tritonclient isn't installed, and `triton` is requested.

    Examples:
        >>> options = hemf_export.ShipOptions(precision="fp16", bench=False, triton=False)
        >>> [shipment.error for shipment in hemf_export.ship_all("runs", "data", "out", options=options)]
        [None, None]
    """
    from hemf_export.shipping import shipment
    from hemf_export.shipping.options import Options

    options = options or Options()
    _check(options)
    sources = shipment.find(Path(checkpoints), Path(output), name)
    return tuple(
        Shipment(one.source.name, one.bundle or one.source.folder, one.to_dict(), one.error)
        for one in shipment.ship(sources, Path(data), options, progress)
    )


def _check(options: ShipOptions) -> None:
    """Raise an error for what this machine or the options lack, before any work."""
    from hemf_export.engines import targets
    from hemf_export.engines.options import BatchProfile
    from hemf_export.images.model_input import SourceSize
    from hemf_export.triton import config_file

    targets.find(options.target)
    BatchProfile.parse(options.batch)
    if options.source_size:
        SourceSize.parse(options.source_size)
    if options.use and not Path(options.use).is_file():
        raise UsageError(f"No file at {options.use}.", "`use` takes a text of your own for the model card.")
    if options.triton:
        config_file.messages()
