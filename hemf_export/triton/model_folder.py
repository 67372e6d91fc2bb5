"""The folder of one model in a repository: written new, or given one more version beside the old ones.

A server that polls never sees half of a version: its folder appears with all that is in it, after a configuration that
already speaks of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf import artifact_folder, artifacts
from hemf.errors import BadInputError, CheckFailedError
from hemf_export.triton import backend as backends
from hemf_export.triton import configuration, faults, parameters, protobuf, served_files, versions, warmup
from hemf_export.triton.model_file import ModelFile
from hemf_export.triton.options import BackendName, Options
from hemf_export.triton.versions import VersionPolicy

CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class WrittenModel:
    """One model of a repository.

    Args:
        name: in Triton.
        folder: of the model.
        version: that the file is.
        added: whether it was written now; False where the newest version was this very file already.
        config: the `ModelConfig`, as written.
        model: the file that was given.
        warmed_by: what it is warmed up with, in words; empty for nothing.
        notes: what a user should know.
    """

    name: str
    folder: Path
    version: int
    added: bool
    config: Any
    model: ModelFile
    warmed_by: str
    notes: tuple[str, ...] = ()

    @property
    def backend(self) -> BackendName:
        """Of Triton."""
        name: BackendName = self.config.backend
        return name

    @property
    def perf_analyzer(self) -> str:
        """The command that measures it on a server of this machine, with images of noise."""
        words = ["perf_analyzer", "-m", self.name, "-u", "localhost:8001", "-i", "grpc"]
        return " ".join([*words, "--concurrency-range", "1:16:5", "--percentile=95"])

    @property
    def served(self) -> tuple[int, ...]:
        """The versions that a server loads."""
        return VersionPolicy.of(self.config).served(tuple(versions.found(self.folder)))


def write(name: str, model: ModelFile, folder: Path, options: Options) -> WrittenModel:
    """Make `folder` the model `name`, or add a version to it. See `hemf_export.triton.repository.write`."""
    before = own_config(folder)
    if before is None or options.force:
        return _write_first(name, model, folder, options)
    there = versions.found(folder)
    _require_alike(name, model, folder, before, there)
    config = configuration.changed(before, model, options)
    newest = max(there, default=0)
    known = parameters.texts(before).get(f"{parameters.SHA256}.{newest}")
    version = newest + (known != model.sha256)
    image = warmup.plan(config, model, options)
    made = WrittenModel(name, folder, version, version > newest, config, model, image.source)
    with warmup.in_place(folder, image):
        if made.added:
            _add(made, before, there)
        else:
            require_sound(folder, name, config, there)
            put_config(folder, config)
    return _told(made)


def _add(made: WrittenModel, before: Any, there: Mapping[int, Path]) -> None:
    """Put the new version beside the old ones, and the configuration that speaks of it."""
    _describe(made.config, made.model, made.version)
    # Until the folder is there, the old policy stands: the new one may ask for it.
    first = protobuf.messages().ModelConfig()
    first.CopyFrom(made.config)
    VersionPolicy.of(before).put(first)
    with artifact_folder.whole(made.folder / str(made.version)) as temporary:
        served_files.put(made.model, made.backend, temporary)
        require_sound(made.folder, made.name, made.config, {**there, made.version: temporary})
        put_config(made.folder, first)
    put_config(made.folder, made.config)


def serve(folder: Path, policy: VersionPolicy) -> Any:
    """Change which versions are served, to go back to an earlier one for instance; the new `ModelConfig`.

    What the configuration says of versions that were removed is removed too.

    Raises:
        BadInputError: no model of ours there.
        CheckFailedError: no such version, or the folder isn't right otherwise; nothing is changed.
    """
    config = own_config(folder)
    if config is None:
        raise BadInputError(f"No model at {folder}.", "Say which: -o REPO --name NAME.")
    policy.put(config)
    there = versions.found(folder)
    for version in set(parameters.described(config)) - set(there):
        for key in [key for key in config.parameters if key.endswith(f".{version}")]:
            del config.parameters[key]
    require_sound(folder, folder.resolve().name, config, there)
    put_config(folder, config)
    return config


def own_config(folder: Path) -> Any | None:
    """The `ModelConfig` of a model of ours; None where nothing is there yet.

    Raises:
        BadInputError: something else is there.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if not (folder / CONFIG).is_file():
        raise BadInputError(f"{folder} is not empty, and has no {CONFIG}.", "Choose another --name, or another folder.")
    config = protobuf.read(folder / CONFIG)
    if not parameters.described(config):
        raise BadInputError(
            f"{folder} is a model that hemf-export didn't write: it is left alone.", "Choose another name with --name."
        )
    return config


def put_config(folder: Path, config: Any) -> None:
    """Write a configuration."""
    artifacts.write_bytes(folder / CONFIG, protobuf.text(config).encode())


def require_sound(folder: Path, name: str, config: Any, there: Mapping[int, Path]) -> None:
    """Raise CheckFailedError where a configuration isn't right for the files beside it; all faults are named."""
    if found := faults.find(folder, name, config, there):
        raise CheckFailedError(
            f"{name} would not be right:\n  " + "\n  ".join(found),
            "Nothing was changed. Mend what is there, or replace it whole with --force.",
            {"faults": found},
        )


def _write_first(name: str, model: ModelFile, folder: Path, options: Options) -> WrittenModel:
    backend = backends.choose(model, options.backend)
    config = configuration.new(name, model, backend, options)
    _describe(config, model, 1)
    image, labels = warmup.plan(config, model, options), configuration.labels(model)
    with artifact_folder.whole(folder, CONFIG, force=options.force) as temporary:
        warmup.put(temporary, image)
        if configuration.labelled(model):
            artifacts.write_bytes(temporary / configuration.LABELS, labels)
        (temporary / "1").mkdir()
        served_files.put(model, backend, temporary / "1")
        put_config(temporary, config)
        require_sound(temporary, name, protobuf.read(temporary / CONFIG), versions.found(temporary))
    return _told(WrittenModel(name, folder, 1, True, config, model, image.source))


def _describe(config: Any, model: ModelFile, version: int) -> None:
    for key, value in parameters.of(model, version).items():
        config.parameters[key].string_value = value
    if program := served_files.program_sha256(model, config.backend):
        config.parameters[f"{served_files.PROGRAM}.{version}"].string_value = program


def _require_alike(name: str, model: ModelFile, folder: Path, config: Any, there: Mapping[int, Path]) -> None:
    """A new version answers the same requests as those before it: labels and shapes are of the whole model."""
    hint = "Give it another name with --name, or replace all versions with --force."
    if refusal := backends.mismatch(model, config.backend):
        raise BadInputError(f"The versions of {name} are served otherwise: {refusal}", hint)
    lead = [] if config.max_batch_size or model.fixed_batch is None else [model.fixed_batch]
    for what, own, listed in (("input", model.input, config.input), ("output", model.output, config.output)):
        wanted = f"{own.name} {own.dtype} {[*lead, *own.dims]}"
        known = [f"{one.name} {protobuf.name('DataType', one.data_type)} {list(one.dims)}" for one in listed]
        if known != [wanted]:
            raise BadInputError(
                f"{model.path} has the {what} {wanted}; the versions of {name} have {'; '.join(known)}.", hint
            )
    if there:
        newest = max(there)
        before = parameters.description(parameters.texts(config), newest, f"{folder / CONFIG}")
        described = model.description
        if (before.classes, before.input, before.output) != (described.classes, described.input, described.output):
            raise BadInputError(
                f"{model.path} has other classes, another preprocessing or another kind of output than version "
                f"{newest} of {name}.",
                hint,
            )


def _told(made: WrittenModel) -> WrittenModel:
    """With what a user should know of it."""
    name, manifest, own = made.name, made.model.manifest, list(made.notes)
    if not made.added:
        own.append(f"{name} has this file as version {made.version} already: no new version was made.")
    if made.version not in made.served:
        own.append(f"{name}: version {made.version} is not served by the policy {VersionPolicy.of(made.config)}.")
    if not configuration.labelled(made.model):
        first, second = made.model.description.classes
        own.append(
            f"{name} gives {made.model.description.output.plural} an image: Triton can't name the class by it, "
            f"hemf-export triton-client does; {first} up to {made.model.description.output.border:g}, {second} beyond."
        )
    if made.model.flavour != "onnx":
        compatible = bool(manifest.get("version_compatible"))
        flavour = "TensorRT" if made.model.flavour == "tensorrt" else "TensorRT-RTX"
        own.append(
            f"{name}: the server has to have {flavour} {manifest.get('backend_version')}{' or later' * compatible} and "
            f"a GPU of {manifest.get('compute_capability')}"
            + ", and to be started with --backend-config=tensorrt,version-compatible=true." * compatible
            + "." * (not compatible)
        )
    return WrittenModel(**{**vars(made), "notes": tuple(own)})
