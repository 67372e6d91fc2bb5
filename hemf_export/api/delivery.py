"""Files and their proofs → one bundle for the target; all of it in one step; and the test on the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemf_export.api.checks import Benchmark, Verification, report_file
from hemf_export.api.results import BundleFile, PathLike, Report, Shown, paths_of
from hemf_export.files.progress import SILENT, Progress


@dataclass(frozen=True)
class Shipment(Shown):
    """Bundle of a checkpoint, and the steps that led to it.

    Args:
        path: the finished bundle.
        values: of all steps, in plain types.
    """

    path: Path
    values: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Results of all steps, in plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"bundle": str(self.path), "precision": str(self.values.get("precision"))}


@dataclass(frozen=True)
class SelfTest(Report):
    """Golden images of a bundle or an engine on this machine."""

    @property
    def passed(self) -> bool:
        """Whether everything that runs here computes what it should."""
        return bool(self.values["passed"])

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            "verdict": "passed" if self.passed else "failed",
            **{model["file"]: str(model["outcome"]) for model in self.values.get("models", ())},
        }


def bundle(
    files: PathLike | Iterable[PathLike], output: PathLike, *, verification: Verification | PathLike | None = None,
    benchmark: Benchmark | PathLike | None = None, images: PathLike | None = None, golden: int = 4,
    use: str | None = None, checkpoint: PathLike | None = None, triton: bool = True, name: str | None = None,
    cpp: bool = True, force: bool = False, progress: Progress = SILENT,
) -> BundleFile:  # fmt: skip
    """Pack model files of one checkpoint into an archive, with all that proves and serves them.

    Args:
        files: ONNX files and engines with their manifests.
        output: `NAME.tar.zst`.
        verification: of these files: its report and verdict go into the bundle; one that failed is refused.
        benchmark: of these files.
        images: folder that the golden images of ONNX files are taken from; None for those of the engines, else noise.
        golden: how many golden images; 0 for none.
        use: what the model is for, as text of the model card.
        checkpoint: whose training the model card tells of; None looks for it beside the files.
        triton: put a model repository of Triton into it.
        name: what the model is called there; None for the file's name.
        cpp: put the C++ library and its example into it.
        force: replace a bundle that is there.
        progress: receives the steps.

    Raises:
        BadInputError: files of different checkpoints, or reports of other files.
        CheckFailedError: a verification in which a file failed.

    Examples:
        >>> packed = hemf_export.bundle("best.onnx", "best.tar.zst", cpp=False, triton=False)
        >>> hemf_export.self_test(packed).passed
        True
    """
    from hemf_export.bundles import making
    from hemf_export.files import artifacts

    with artifacts.scratch() as folder:
        request = making.Request(
            files=paths_of(files), output=Path(output),
            verified=None if verification is None else report_file(verification, folder / "verification.json"),
            bench=None if benchmark is None else report_file(benchmark, folder / "benchmark.json"),
            images=None if images is None else Path(images), golden=golden, use=use,
            checkpoint=None if checkpoint is None else Path(checkpoint), triton=triton, served_as=name, cpp=cpp,
            force=force,
        )  # fmt: skip
        packed = making.make(request, progress)
    return BundleFile(packed.path, packed.index.about, packed.notes, sha256=packed.sha256)


def self_test(
    file: PathLike, *, keep: PathLike | None = None, strict: bool = False, max_slowdown: float | None = None,
    cuda_graphs: bool = True, progress: Progress = SILENT,
) -> SelfTest:  # fmt: skip
    """Try a bundle or an engine on this machine: hashes first, then golden images through everything that runs here.

    Args:
        file: a bundle, or an engine with its manifest.
        keep: folder that a bundle which passed is unpacked into; None to unpack it for the test alone.
        strict: fail where a model of the bundle can't run here.
        max_slowdown: see the documentation of self-tests; None for no bound that was asked for.
        cuda_graphs: launch engines as captured graphs.
        progress: receives the steps.

    Raises:
        BadInputError: a bundle that was changed.
        CheckFailedError: a logit differs by more than the manifest allows.
        MissingCapabilityError: nothing of it can run here.

    Examples:
        >>> hemf_export.self_test("best.tar.zst").passed
        True
    """
    from hemf_export.bundles import archive, trial
    from hemf_export.models import self_test as engines

    path = Path(file)
    if not archive.looks_like_one(path):
        with progress.task(f"Running {path.name} on its golden images"):
            tested = engines.run(path, cuda_graphs=cuda_graphs)
        return SelfTest({"file": str(path), **tested.to_dict()}, tested.notes)
    with trial.opened(path, None if keep is None else Path(keep), progress) as (folder, index):
        tried = trial.run(folder, index, cuda_graphs=cuda_graphs, max_slowdown=max_slowdown, progress=progress)
        tried.require(path, strict=strict)
    values = {
        "file": str(path), "passed": True, "files": len(index.members) + 2, "contents_sha256": index.contents_sha256,
        "models": [model.to_dict() for model in tried.models],
    }  # fmt: skip
    return SelfTest(values, tuple(f"{model.file}: {note}" for model in tried.models for note in model.notes))


def ship(
    checkpoint: PathLike, data: PathLike, output: PathLike, *, target: str = "t4", max_drop: float = 0.5,
    progress: Progress = SILENT, **options: Any,
) -> Shipment:  # fmt: skip
    """Take a checkpoint to a bundle: export, precision within a budget, engine, verification, benchmark, archive.

    What was done of the same inputs is not done again.

    Args:
        checkpoint: the model.
        data: data folder: calibrates on train/, chooses on val/, verifies on test/.
        output: folder for all files.
        target: GPU or compute capability.
        max_drop: accuracy that INT8 may cost, in percentage points.
        progress: receives the steps.
        **options: fields of `hemf_export.shipping.options.Options`, such as `precision`, `bench`, `triton`, `cpp`.

    Raises:
        HemfError: what the step that failed raised.

    Examples:
        >>> shipment = hemf_export.ship("best.pt", "data", "shipped", precision="fp16", bench=False, triton=False)
        >>> shipment.path.name
        'best.tar.zst'
    """
    from hemf_export.shipping import shipment
    from hemf_export.shipping.options import Options

    sources = shipment.find(Path(checkpoint), Path(output))
    chosen = Options(target=target, max_drop=max_drop, **options)
    (shipped,) = shipment.ship(sources, Path(data), chosen, progress)
    if shipped.error is not None:
        raise shipped.error
    assert shipped.bundle is not None, "what didn't fail has a bundle"
    return Shipment(shipped.bundle, shipped.to_dict())
