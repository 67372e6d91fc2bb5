"""Make a bundle from model files, their proofs and everything to serve them. Reproducible byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hemf_export import engines
from hemf_export.bundles import archive, contents, index, model_card
from hemf_export.bundles.archive import SUFFIX
from hemf_export.bundles.index import Index
from hemf_export.files import artifact_folder, artifacts, locks
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.precision import compiled_precision, golden_images
from hemf_export.triton import config_file, configuration, repository
from hemf_export.triton.options import BackendName, Options, require_name
from hemf_export.triton.servable import Servable

LABELS = configuration.LABELS
TRITON = "triton"
BUILDS = f"{index.TIMINGS}/builds.json"
_CPP_FOLDER = "cpp"
# Listed by name, so that build folders are left out.
_CPP_PARTS = ("CMakeLists.txt", "LICENSE", "README.md", "cmake", "examples", "fuzz", "include", "src")


@dataclass(frozen=True)
class Request:
    """Request for a bundle.

    Args:
        files: engines and ONNX files with their manifests, of one checkpoint.
        output: path of the bundle, NAME.tar.zst.
        verified: JSON file of their verification.
        bench: JSON file of their benchmark.
        images: images to make golden images from for ONNX files; None for those of the engines, else noise.
        golden: number of golden images; 0 for none.
        use: text file for the model card on what the model is for.
        checkpoint: checkpoint that they were made from, for the model card; None looks for it beside them.
        factory: factory of its network, if that is one of the user's own.
        triton: include a model repository for Triton.
        served_as: name of its only model in that repository; None for the file's.
        cpp: include the C++ sources.
        force: replace an existing bundle.

    Raises:
        UsageError: another suffix, a negative number of images, or a name without a repository.
    """

    files: tuple[Path, ...]
    output: Path
    verified: Path | None = None
    bench: Path | None = None
    images: Path | None = None
    golden: int = golden_images.IMAGES
    use: str | None = None
    checkpoint: Path | None = None
    factory: str | None = None
    triton: bool = True
    served_as: str | None = None
    cpp: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if not self.output.name.endswith(SUFFIX) or self.output.name == SUFFIX:
            raise UsageError(
                f"A bundle is called NAME{SUFFIX}, not {self.output}.", "Choose such a name with `output`."
            )
        if self.served_as is not None:
            require_name(self.served_as)
            if not self.triton:
                raise UsageError("`name` names the model in Triton's repository, which is left out.")
        if self.golden < 0:
            raise UsageError(f"`golden` is a number of images, not {self.golden}.")

    @property
    def name(self) -> str:
        """Name of the bundle, without the suffix."""
        return self.output.name.removesuffix(SUFFIX)


@dataclass(frozen=True)
class Bundle:
    """Finished bundle.

    Args:
        path: path of the archive.
        sha256: SHA-256 of the archive.
        index: content of its bundle.json.
        notes: remarks for the user.
    """

    path: Path
    sha256: str
    index: Index
    notes: tuple[str, ...]


@locks.owning(lambda request, *_, **__: (request.output,))
def make(request: Request, progress: Progress = SILENT) -> Bundle:
    """Write the bundle.

    Raises:
        UsageError: no files, or two with the same name.
        BadInputError: files of different checkpoints, without a manifest or not as it describes; reports of other
            files; the bundle exists already.
        CheckFailedError: a report in which a file failed.
        MissingCapabilityError: tritonclient isn't installed.
    """
    _check_output(request)
    if request.triton:
        config_file.messages()
    with progress.task(f"Reading {', '.join(path.name for path in request.files)}"):
        read = contents.read_models(request.files)
        reports = contents.read_reports(request.verified, request.bench, read)
        trained = model_card.read_training(request.checkpoint, read, request.factory)
        labels = configuration.labels(read[0])
        if request.served_as is not None and len(_served(read)) > 1:
            raise UsageError("`name` names a single model; Triton would serve several.", "Leave out `name`.")
    with artifacts.scratch(request.output) as folder:
        with progress.task("Computing golden images" if request.golden else "Putting the files together"):
            staged = _stage(request, read, folder)
        notes = [*_renamed(read), *reports.notes, *_broken(staged)]
        if request.triton:
            with progress.task("Writing Triton's repository"):
                notes += _put_triton(request, read, folder)
        if request.cpp:
            _put_cpp_sources(folder)
        artifacts.write_bytes(folder / LABELS, labels)
        reports.write(folder)
        manifests = [
            artifacts.read_manifest(folder / index.MODELS / contents.member_name(model.path)) or {} for model in read
        ]
        card = model_card.markdown(request.name, staged, manifests, reports, request.use, trained)
        artifacts.write_bytes(folder / model_card.NAME, card.encode())
        bundle_index = _index(request, read, staged, folder)
        digests = {name: member.sha256 for name, member in bundle_index.members.items()}
        artifacts.write_bytes(folder / index.NAME, bundle_index.to_bytes())
        artifacts.write_bytes(folder / index.SUMS, bundle_index.sums())
        names = archive.order(digests, (index.NAME, index.SUMS))
        with artifacts.atomic_path(request.output) as temporary:
            archive.write(temporary, folder, names, progress)
            _check_output(request)  # another program may have written a file there meanwhile
    return Bundle(request.output, artifacts.sha256(request.output), bundle_index, tuple(notes))


def _check_output(request: Request) -> None:
    artifacts.check_outputs(
        [request.output], filter(None, (*request.files, request.verified, request.bench, request.checkpoint))
    )
    if request.output.exists() and not request.force:
        raise BadInputError(
            f"{request.output} is there already.", "Replace it with `force`, or choose another `output`."
        )


def _stage(request: Request, read: Sequence[Servable], folder: Path) -> list[dict[str, Any]]:
    place = folder / index.MODELS
    place.mkdir()
    shared = contents.golden_of_engines(read)
    builds = {
        contents.member_name(model.path): times
        for model in read
        if (times := contents.stage_model(model, place, request.images, request.golden, shared))
    }
    if builds:
        (folder / index.TIMINGS).mkdir()
        artifacts.write_json(folder / BUILDS, builds)
    return [contents.described_model(model, place) for model in read]


def _renamed(read: Sequence[Servable]) -> list[str]:
    names = [(model.path.name, contents.member_name(model.path)) for model in read]
    return [f"{own} is called {name} in the bundle: names there have to do for any system." for own, name in names
            if own != name]  # fmt: skip


def _broken(staged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on engines that compute INT8 products of their graphs in another type."""
    compiled = ((model["file"], model.get("compiled_precision")) for model in staged)
    remarks = ((file, None if types is None else compiled_precision.remark(types)) for file, types in compiled)
    return [f"{file}: {remark}" for file, remark in remarks if remark is not None]


def _served(read: Sequence[Servable]) -> Sequence[Servable]:
    """Select the models to serve: engines, or ONNX files if there are none."""
    return [model for model in read if model.flavour != "onnx"] or read


def _put_triton(request: Request, read: Sequence[Servable], folder: Path) -> list[str]:
    notes: list[str] = []
    for model in _served(read):
        backend: BackendName | Literal["auto"] = "python" if model.flavour == "tensorrt-rtx" else "auto"
        path = folder / index.MODELS / contents.member_name(model.path)
        options = Options(name=request.served_as, backend=backend)
        notes += repository.write([path], folder / TRITON, options).notes
    return notes


def _index(
    request: Request, read: Sequence[Servable], staged: Sequence[dict[str, Any]], folder: Path
) -> Index:  # fmt: skip
    described = read[0].description
    about = {
        "name": request.name,
        "network": described.name,
        "checkpoint_sha256": described.checkpoint_sha256,
        "classes": list(described.classes),
        "preprocess": described.preprocess.to_dict(),
        "models": list(staged),
        "verified": (folder / contents.VERIFY_JSON).is_file(),
        "timed": (folder / contents.BENCH_JSON).is_file(),
        "triton": sorted(path.name for path in (folder / TRITON).iterdir()) if request.triton else [],
        "versions": artifacts.versions(),
    }
    return Index.of_folder(folder, about)


def _put_cpp_sources(folder: Path) -> None:
    """Copy the sources of the C++ library and its example, which this package carries, into a bundle's folder."""
    root = Path(engines.__file__).parent / "cpp"
    for part in _CPP_PARTS:
        for path in [root / part] if (root / part).is_file() else sorted((root / part).rglob("*")):
            if path.is_file():
                place = folder / _CPP_FOLDER / path.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                artifact_folder.link_or_copy(path, place, copy=True)
