"""Write and check model repositories for a Triton server, and choose the versions to serve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemf_export.api.results import PathLike, Shown, path_of, paths_of
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from hemf_export.triton.repository import ServedModel, WrittenModel


@dataclass(frozen=True)
class WrittenVersion:
    """Version of a model that was written into a repository.

    Args:
        name: name of the model in Triton.
        folder: folder of the model.
        version: version number of the file.
        description: names and values that describe how it is served.
        perf_analyzer: command that measures it on a server of this machine.
        values: all of it in plain types.
    """

    name: str
    folder: Path
    version: int
    description: tuple[tuple[str, str], ...] = field(repr=False)
    perf_analyzer: str = field(repr=False)
    values: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return dict(self.values)


@dataclass(frozen=True)
class TritonRepository(Shown):
    """Model repository with the models that were written into it.

    Args:
        path: its folder.
        models: versions that were written, in the order of the files.
        notes: remarks for the user.
    """

    path: Path
    models: tuple[WrittenVersion, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert the models to plain types."""
        return {"repository": str(self.path), "models": [model.to_dict() for model in self.models]}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"repository": str(self.path), **{model.name: f"version {model.version}" for model in self.models}}


@dataclass(frozen=True)
class CheckedRepository(Shown):
    """Model repository without faults.

    Args:
        path: its folder.
        models: models that hemf-export wrote.
        passed_over: names of other models, which aren't checked.
    """

    path: Path
    models: tuple[ServedModel, ...]
    passed_over: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert the models to plain types."""
        models = [model.to_dict() for model in self.models]
        return {"repository": str(self.path), "models": models, "passed_over": list(self.passed_over)}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {
            "repository": str(self.path),
            **{model.name: f"{model.backend}, versions {', '.join(map(str, model.versions))}" for model in self.models},
        }


def triton_repository(
    models: PathLike | Iterable[PathLike], output: PathLike, *, name: str | None = None,
    backend: Literal["auto", "tensorrt", "onnxruntime", "python"] = "auto",
    device: Literal["cpu", "gpu"] | None = None, max_batch: int | None = None, preferred: Sequence[int] | None = None,
    queue_delay_us: int | None = None, instances: int | None = None, threads: int | None = None,
    cuda_graphs: bool | None = None, warmup: bool = True, images: PathLike | None = None,
    versions: str | None = None, force: bool = False, progress: Progress = SILENT,
) -> TritonRepository:  # fmt: skip
    """Write model files into a model repository for Triton, and check it against their manifests.

    An existing model gets a new version beside the old ones, and keeps the options that aren't given.

    Args:
        models: ONNX files of ours, and engines with their manifests; each becomes a model of its own.
        output: the repository; created if needed.
        name: name of the model in Triton, for a single file; None for the file's name.
        backend: "python" runs an ONNX file or a TensorRT-RTX engine by a model.py; "auto" takes what fits the file.
        device: device of an ONNX file; None for the CPU.
        max_batch: largest batch that the server forms; None for the profile's maximum, or 32.
        preferred: preferred batch sizes; None for the profile's optimum.
        queue_delay_us: longest wait for a preferred batch, in microseconds; None for 1000.
        instances: number of concurrent instances; None for 1.
        threads: threads of an instance on a CPU; None for all usable cores.
        cuda_graphs: launch engines as captured CUDA graphs; None for yes.
        warmup: run an image before the model counts as ready.
        images: folder with the warm-up image; None for the engine's golden images, else noise.
        versions: versions to serve: "latest:N", "all", or numbers, "1,3"; None for "latest:1".
        force: replace a model of that name with all its versions.
        progress: receives the steps.

    Raises:
        UsageError: options that don't apply to a file, or two files with the same name.
        BadInputError: a file that can't be served with these options, or an existing model of that name with other
            inputs.
        CheckFailedError: the result has faults; nothing is kept.
        MissingCapabilityError: tritonclient isn't installed.

    Examples:
        >>> repository = hemf_export.triton_repository("best.onnx", "models", name="hemf")
        >>> repository.models[0].version
        1
    """
    from hemf_export.triton import repository
    from hemf_export.triton.options import Options, VersionPolicy

    policy = VersionPolicy.parse(versions) if versions else None
    options = Options(
        name=name, backend=backend, device=device, max_batch=max_batch,
        preferred=None if preferred is None else tuple(preferred), queue_delay_us=queue_delay_us, instances=instances,
        threads=threads, cuda_graphs=cuda_graphs, warmup=warmup, images=path_of(images), versions=policy, force=force,
    )  # fmt: skip
    written = repository.write(paths_of(models), Path(output), options, progress)
    return TritonRepository(written.repository, tuple(map(_version, written.models)), written.notes)


def serve_versions(repository: PathLike, name: str, versions: str) -> ServedModel:
    """Change which versions of a model a server loads, for instance to return to an earlier one.

    Args:
        repository: the model repository.
        name: name of the model.
        versions: "latest:N", "all", or numbers, "1,3".

    Raises:
        UsageError: an invalid policy.
        BadInputError: no such model.
        CheckFailedError: a version that doesn't exist.
        MissingCapabilityError: tritonclient isn't installed.

    Examples:
        >>> hemf_export.serve_versions("models", "hemf", "all").served
        (1,)
    """
    from hemf_export.triton import repository as repositories
    from hemf_export.triton.options import VersionPolicy

    policy = VersionPolicy.parse(versions)
    return repositories.serve(Path(repository), name, policy)


def check_repository(repository: PathLike, *, progress: Progress = SILENT) -> CheckedRepository:
    """Check the configurations of a model repository against the models beside them. Nothing is run or written.

    Args:
        repository: the model repository, or the folder of one model in it.
        progress: receives the steps.

    Raises:
        BadInputError: no such folder, no model in it, or an invalid configuration.
        CheckFailedError: there are faults; the message lists all of them.
        MissingCapabilityError: tritonclient isn't installed.

    Examples:
        >>> [model.name for model in hemf_export.check_repository("models").models]
        ['hemf']
    """
    from hemf_export.triton import repository as repositories

    folder = Path(repository)
    with progress.task(f"Checking {folder}"):
        checked = repositories.check(folder)
    return CheckedRepository(folder, checked.models, checked.passed_over)


def _version(written: WrittenModel) -> WrittenVersion:
    config, model = written.config, written.model
    batching, instances = config.dynamic_batching, config.instance_group[0]
    sizes, delay = list(batching.preferred_batch_size), batching.max_queue_delay_microseconds
    batches = f"up to {config.max_batch_size}" if config.max_batch_size else f"fixed, {model.fixed_batch} in a request"
    if config.HasField("dynamic_batching"):
        preferred = f", preferred {', '.join(map(str, sizes))}" if sizes else ""
        batches += f", put together for {delay:,} µs" + preferred
    kind = "GPU" if instances.kind == 1 else "CPU"
    description = (
        ("model", f"{written.name}, version {written.version}, of {model.path.name} ({model.description.precision})"),
        ("served", f"version {', '.join(map(str, written.served)) or 'none'}"),
        ("backend", f"{written.backend}, {instances.count} instance{'s' * (instances.count != 1)} on the {kind}"),
        ("input", f"{model.input}" + (", raw pixels" if model.description.input_type == "uint8" else "")),
        ("batches", batches),
        ("warm-up", written.warmed_by or "none"),
        ("SHA-256", model.sha256),
    )
    values = {
        "name": written.name,
        "folder": str(written.folder),
        "version": written.version,
        "added": written.added,
        "served": list(written.served),
        "backend": written.backend,
        "max_batch_size": config.max_batch_size,
        "preferred": sizes,
        "queue_delay_us": delay,
        "sha256": model.sha256,
        "warmed_by": written.warmed_by,
        "notes": list(written.notes),
        "perf_analyzer": written.perf_analyzer,
    }
    return WrittenVersion(written.name, written.folder, written.version, description, written.perf_analyzer, values)
