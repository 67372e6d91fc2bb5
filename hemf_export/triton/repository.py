"""Write and check model repositories for Triton.

    from pathlib import Path
    from hemf_export.triton import repository
    from hemf_export.triton.options import Options
    repository.write([Path("best.onnx")], Path("models"), Options(name="hemf"))

Everything is checked before it takes its place. A polling server never sees an incomplete version: its folder appears
atomically, after a configuration that already describes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifact_folder, artifacts, file_names, locks
from hemf_export.files.errors import BadInputError, CheckFailedError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models import file_kinds
from hemf_export.triton import config_file, configuration, faults, servable, served_files
from hemf_export.triton.config_file import CONFIG
from hemf_export.triton.options import BackendName, Options, VersionPolicy, require_name
from hemf_export.triton.servable import Servable


@dataclass(frozen=True)
class WrittenModel:
    """Model written into a repository.

    Args:
        name: name of the model in Triton.
        folder: folder of the model.
        version: version number of the file.
        added: whether this version is new; False if the newest version was the same file already.
        config: the `ModelConfig` as written.
        model: the model file.
        warmed_by: source of its warm-up images, in words; empty without warm-up.
        notes: remarks for the user.
    """

    name: str
    folder: Path
    version: int
    added: bool
    config: Any
    model: Servable
    warmed_by: str
    notes: tuple[str, ...] = ()

    @property
    def backend(self) -> BackendName:
        """Triton backend that runs it."""
        name: BackendName = self.config.backend
        return name

    @property
    def perf_analyzer(self) -> str:
        """Command that measures it on a server of this machine, with noise as images."""
        words = ["perf_analyzer", "-m", self.name, "-u", "localhost:8001", "-i", "grpc"]
        return " ".join([*words, "--concurrency-range", "1:16:5", "--percentile=95"])

    @property
    def served(self) -> tuple[int, ...]:
        """Versions that a server loads."""
        return VersionPolicy.of(self.config).served(tuple(version_folders(self.folder)))


@dataclass(frozen=True)
class Written:
    """Repository with the models that were written into it, in the order of the files."""

    repository: Path
    models: tuple[WrittenModel, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on all models for the user."""
        return tuple(note for model in self.models for note in model.notes)


@dataclass(frozen=True)
class ServedModel:
    """Model in a repository, whose configuration fits its files.

    Args:
        name: name of the model.
        backend: Triton backend that runs it.
        versions: existing versions.
        served: versions that a server loads.
    """

    name: str
    backend: str
    versions: tuple[int, ...]
    served: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return asdict(self)


@dataclass(frozen=True)
class Checked:
    """Repository without faults.

    Args:
        repository: its folder.
        models: models that hemf-export wrote.
        passed_over: names of other models, which aren't checked.
    """

    repository: Path
    models: tuple[ServedModel, ...]
    passed_over: tuple[str, ...]


def write(
    models: Sequence[Path],
    output: Path,
    options: Options,
    progress: Progress = SILENT,
) -> Written:
    """Write model files into a repository, each as a new model, or as the next version of the model of its name.

    Args:
        models: ONNX files of ours, and engines with their manifests.
        output: the repository; created if needed.
        options: options of serving them; the name only for a single file.
        progress: receives the steps.

    Raises:
        UsageError: options that don't apply to a file, or two files with the same name.
        BadInputError: a file that can't be served with these options; a folder that holds something else; an existing
            model of that name with other inputs or classes.
        CheckFailedError: the result has faults; nothing is kept.
        MissingCapabilityError: tritonclient isn't installed.
    """
    if not models:
        raise UsageError("No model to serve: name an ONNX file or an engine.")
    if options.name is not None and len(models) > 1:
        raise UsageError(
            f"`name` names a single model; there are {len(models)}.", "Without it, each model is named after its file."
        )
    config_file.messages()
    names = [options.name or name_of(path) for path in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"Two of the files would be called {twice[0]}.", "Write them one by one, with `name`.")
    _check_place(output)
    with progress.task(f"Reading {', '.join(path.name for path in models)}"):
        files = [servable.read(path) for path in models]
    written = []
    for name, model in zip(names, files, strict=True):
        with progress.task(f"Writing {name}"), locks.exclusive(output / name):
            result = _write_model(name, model, output / name, options)
        notes = () if options.name else _renamed(model.path, name)
        written.append(dataclasses.replace(result, notes=(*notes, *result.notes)))
    return Written(output, tuple(written))


def serve(output: Path, name: str, policy: VersionPolicy) -> ServedModel:
    """Change which versions of a model are served, for instance to return to an earlier one."""
    require_name(name)
    with locks.exclusive(output / name):
        config = _serve_versions(output / name, policy)
    folders = tuple(version_folders(output / name))
    return ServedModel(name, config.backend, folders, policy.served(folders))


def check(folder: Path) -> Checked:
    """Check the configurations in a repository against the models beside them, without running anything.

    Args:
        folder: the repository, or the folder of one model in it.

    Raises:
        BadInputError: no such folder, no model in it, or an invalid configuration.
        UsageError: a key in a configuration that Triton doesn't know.
        CheckFailedError: there are faults; the message lists all of them.
        MissingCapabilityError: tritonclient isn't installed.
    """
    config_file.messages()
    if not folder.is_dir():
        raise BadInputError(
            f"{folder} is not a folder.", "A model repository is needed: `triton_repository(MODEL, output='.')`."
        )
    alone = (folder / CONFIG).is_file()
    places = [folder] if alone else sorted(path for path in folder.iterdir() if (path / CONFIG).is_file())
    if not places:
        raise BadInputError(
            f"{folder} is no model repository: no folder of it has a {CONFIG}.",
            "Write one: `triton_repository(MODEL, output=REPO)`.",
        )
    models, passed_over, wrong = [], [], {}
    for place in places:
        config, name = config_file.read(place / CONFIG), place.resolve().name
        if not config_file.described_versions(config):
            passed_over.append(name)
            continue
        folders = version_folders(place)
        if problems := faults.find(place, name, config, folders):
            wrong[name] = problems
        served = VersionPolicy.of(config).served(tuple(folders))
        models.append(ServedModel(name, config.backend, tuple(folders), served))
    if wrong:
        listed = [f"{name}: {fault}" for name, problems in wrong.items() for fault in problems]
        raise CheckFailedError(
            f"{folder} is not right:\n  " + "\n  ".join(listed),
            "Write the model again with `triton_repository()`, with `force` to replace it whole.",
            {"faults": wrong},
        )
    return Checked(folder, tuple(models), tuple(passed_over))


def _check_place(output: Path) -> None:
    """Require a new folder, an empty one, or one that holds models; nothing is written."""
    if output.exists() and not output.is_dir():
        raise BadInputError(f"{output} is a file, not a folder to write.", "Choose another folder with `output`.")
    if output.is_dir():
        shown = [path for path in output.iterdir() if not path.name.startswith(".")]
        if shown and not any((path / CONFIG).is_file() for path in shown):
            raise BadInputError(
                f"{output} is not empty, and no model repository: no folder of it has a {CONFIG}.",
                "Choose a new or an empty folder with `output`.",
            )


def name_of(path: Path) -> str:
    """Return the default name of a model in Triton: its file's, with invalid characters replaced."""
    return file_names.fit(file_kinds.stem(path))


def _renamed(path: Path, name: str) -> list[str]:
    own = file_kinds.stem(path)
    return [] if own == name else [f"{own!r} is called {name} in Triton, whose names have fewer signs."]


def _write_model(name: str, model: Servable, folder: Path, options: Options) -> WrittenModel:
    """Write the model `name` into `folder`, or add a version to it. See `write`."""
    before = _own_config(folder)
    if before is None or options.force:
        return _write_first(name, model, folder, options)
    folders = version_folders(folder)
    _require_alike(name, model, folder, before, folders)
    config = configuration.changed(before, model, options)
    newest = max(folders, default=0)
    known = config_file.parameters(before).get(f"{config_file.SHA256}.{newest}")
    version = newest + (known != model.sha256)
    image = served_files.plan_warmup(config, model, options)
    written = WrittenModel(name, folder, version, version > newest, config, model, image.source)
    with served_files.warmup_in_place(folder, image):
        if written.added:
            _add(written, before, folders)
        else:
            _require_sound(folder, name, config, folders)
            _put_config(folder, config)
    return _with_notes(written)


def _add(written: WrittenModel, before: Any, folders: Mapping[int, Path]) -> None:
    """Add the new version beside the old ones, and the configuration that describes it."""
    _describe(written.config, written.model, written.version)
    # The old policy stays until the folder exists: the new one may request the new version.
    first = config_file.messages().ModelConfig()
    first.CopyFrom(written.config)
    VersionPolicy.of(before).put(first)
    with artifact_folder.whole(written.folder / str(written.version)) as temporary:
        served_files.put_version(written.model, written.backend, temporary)
        _require_sound(written.folder, written.name, written.config, {**folders, written.version: temporary})
        _put_config(written.folder, first)
    _put_config(written.folder, written.config)


def _serve_versions(folder: Path, policy: VersionPolicy) -> Any:
    """Change which versions are served; return the new `ModelConfig`.

    Parameters of removed versions are dropped from the configuration.

    Raises:
        BadInputError: not a model that hemf-export wrote.
        CheckFailedError: no such version, or other faults; nothing is changed.
    """
    config = _own_config(folder)
    if config is None:
        raise BadInputError(f"No model at {folder}.", "Say which: `output=REPO, name=NAME`.")
    policy.put(config)
    folders = version_folders(folder)
    for version in set(config_file.described_versions(config)) - set(folders):
        for key in [key for key in config.parameters if key.endswith(f".{version}")]:
            del config.parameters[key]
    _require_sound(folder, folder.resolve().name, config, folders)
    _put_config(folder, config)
    return config


def _own_config(folder: Path) -> Any | None:
    """Read the `ModelConfig` of a model that hemf-export wrote; None if the folder is new or empty.

    Raises:
        BadInputError: the folder holds something else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if not (folder / CONFIG).is_file():
        raise BadInputError(f"{folder} is not empty, and has no {CONFIG}.", "Choose another `name`, or another folder.")
    config = config_file.read(folder / CONFIG)
    if not config_file.described_versions(config):
        raise BadInputError(
            f"{folder} is a model that hemf-export didn't write: it is left alone.", "Choose another name with `name`."
        )
    return config


def _put_config(folder: Path, config: Any) -> None:
    """Write a configuration."""
    artifacts.write_bytes(folder / CONFIG, config_file.to_text(config).encode())


def _require_sound(folder: Path, name: str, config: Any, folders: Mapping[int, Path]) -> None:
    """Raise CheckFailedError with all faults of a configuration against the files beside it."""
    if problems := faults.find(folder, name, config, folders):
        raise CheckFailedError(
            f"{name} would have faults:\n  " + "\n  ".join(problems),
            "Nothing was changed. Mend what is there, or replace it whole with `force`.",
            {"faults": problems},
        )


def _write_first(name: str, model: Servable, folder: Path, options: Options) -> WrittenModel:
    backend = servable.choose_backend(model, options.backend)
    config = configuration.new(name, model, backend, options)
    _describe(config, model, 1)
    image, labels = served_files.plan_warmup(config, model, options), configuration.labels(model)
    with artifact_folder.whole(folder, CONFIG, force=options.force) as temporary:
        served_files.put_warmup(temporary, image)
        if configuration.labelled(model):
            artifacts.write_bytes(temporary / configuration.LABELS, labels)
        (temporary / "1").mkdir()
        served_files.put_version(model, backend, temporary / "1")
        _put_config(temporary, config)
        _require_sound(temporary, name, config_file.read(temporary / CONFIG), version_folders(temporary))
    return _with_notes(WrittenModel(name, folder, 1, True, config, model, image.source))


def _describe(config: Any, model: Servable, version: int) -> None:
    for key, value in config_file.version_parameters(model, version).items():
        config.parameters[key].string_value = value
    if program := served_files.program_sha256(model, config.backend):
        config.parameters[f"{served_files.PROGRAM}.{version}"].string_value = program


def _require_alike(name: str, model: Servable, folder: Path, config: Any, folders: Mapping[int, Path]) -> None:
    """Require a new version to answer the same requests as the others: all versions share labels and shapes."""
    hint = "Give it another name with `name`, or replace all versions with `force`."
    if refusal := servable.backend_mismatch(model, config.backend):
        raise BadInputError(f"The versions of {name} are served otherwise: {refusal}", hint)
    lead = [] if config.max_batch_size or model.fixed_batch is None else [model.fixed_batch]
    for what, own, listed in (("input", model.input, config.input), ("output", model.output, config.output)):
        wanted = f"{own.name} {own.dtype} {[*lead, *own.dims]}"
        known = [f"{one.name} {config_file.enum_name('DataType', one.data_type)} {list(one.dims)}" for one in listed]
        if known != [wanted]:
            raise BadInputError(
                f"{model.path} has the {what} {wanted}; the versions of {name} have {'; '.join(known)}.", hint
            )
    if folders:
        newest = max(folders)
        before = config_file.description_of(config_file.parameters(config), newest, f"{folder / CONFIG}")
        described = model.description
        if (before.classes, before.input, before.output) != (described.classes, described.input, described.output):
            raise BadInputError(
                f"{model.path} has other classes, another preprocessing or another kind of output than version "
                f"{newest} of {name}.",
                hint,
            )


def _with_notes(written: WrittenModel) -> WrittenModel:
    """Add remarks for the user."""
    name, manifest, own = written.name, written.model.manifest, list(written.notes)
    if not written.added:
        own.append(f"{name} has this file as version {written.version} already: no new version was made.")
    if written.version not in written.served:
        own.append(f"{name}: version {written.version} is not served by the policy {VersionPolicy.of(written.config)}.")
    if not configuration.labelled(written.model):
        first, second = written.model.description.classes
        own.append(
            f"{name} gives {written.model.description.output.plural} an image: Triton can't name the class by it, "
            f"`predict_served()` does; {first} up to {written.model.description.output.border:g}, {second} beyond."
        )
    if written.model.flavour != "onnx":
        compatible = bool(manifest.get("version_compatible"))
        only = manifest.get("built_on") if manifest.get("hardware_compatible") is False else None
        flavour = "TensorRT" if written.model.flavour == "tensorrt" else "TensorRT-RTX"
        own.append(
            f"{name}: the server has to have {flavour} {manifest.get('backend_version')}{' or later' * compatible} and "
            + (f"a {only}" if only else f"a GPU of {manifest.get('compute_capability')}")
            + ", and to be started with --backend-config=tensorrt,version-compatible=true." * compatible
            + "." * (not compatible)
        )
    return WrittenModel(**{**vars(written), "notes": tuple(own)})


def version_folders(folder: Path) -> dict[int, Path]:
    """Return the version folders of a model by number; like Triton, ignore names with leading zeros."""
    paths = (path for path in folder.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit())
    return dict(sorted((int(path.name), path) for path in paths if not path.name.startswith("0")))
