"""A model repository of Triton: written from model files, and checked.

    from hemf_export.triton import repository
    repository.write([Path("best.fp16.t4.engine")], Path("models"), Options(name="hemf"))

What is written is checked before it takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hemf import file_names, locks
from hemf.errors import BadInputError, CheckFailedError, UsageError
from hemf_export import model_kind
from hemf_export.triton import faults, model_file, model_folder, parameters, protobuf, versions
from hemf_export.triton.model_folder import CONFIG, WrittenModel
from hemf_export.triton.options import Options, require_name
from hemf_export.triton.versions import VersionPolicy


@dataclass(frozen=True)
class Written:
    """A repository and the models that were written into it, in the order of the files."""

    repository: Path
    models: tuple[WrittenModel, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all models."""
        return tuple(note for model in self.models for note in model.notes)


@dataclass(frozen=True)
class CheckedModel:
    """A model whose configuration is right for its files.

    Args:
        name: of the model.
        backend: of Triton.
        versions: that are there.
        served: those that a server loads.
    """

    name: str
    backend: str
    versions: tuple[int, ...]
    served: tuple[int, ...]


@dataclass(frozen=True)
class Checked:
    """A repository that was found right.

    Args:
        repository: its folder.
        models: of ours.
        passed_over: models that hemf-export didn't write.
    """

    repository: Path
    models: tuple[CheckedModel, ...]
    passed_over: tuple[str, ...]


def write(
    models: Sequence[Path],
    output: Path,
    options: Options,
    step: Callable[[str], AbstractContextManager[None]] = lambda text: nullcontext(),
) -> Written:
    """Put model files into a repository, each as a model of its own: new, or the next version of the one of its name.

    Args:
        models: ONNX files of ours, and engines with their manifests.
        output: the repository; made where it isn't there.
        options: how to serve them; the name only for a single file.
        step: shows what is under way.

    Raises:
        UsageError: options that make no sense for a file, two files of one name.
        BadInputError: a file that can't be served so; a folder that holds something else; a model of that name that
            takes other images or gives other classes.
        CheckFailedError: what was written isn't right; nothing is kept.
        MissingCapabilityError: tritonclient isn't installed.
    """
    if not models:
        raise UsageError("No model to serve: name an ONNX file or an engine.")
    if options.name is not None and len(models) > 1:
        raise UsageError(f"--name is of one model; here are {len(models)}.", "Each is called as its file then.")
    protobuf.messages()
    names = [options.name or name_of(path) for path in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"Two of the files would be called {twice[0]}.", "Write them one by one, with --name.")
    _check_place(output)
    with step(f"Reading {', '.join(path.name for path in models)}"):
        files = [model_file.read(path) for path in models]
    written = []
    for name, model in zip(names, files, strict=True):
        with step(f"Writing {name}"), locks.exclusive(output / name):
            made = model_folder.write(name, model, output / name, options)
        notes = () if options.name else _renamed(model.path, name)
        written.append(dataclasses.replace(made, notes=(*notes, *made.notes)))
    return Written(output, tuple(written))


def serve(output: Path, name: str, policy: VersionPolicy) -> CheckedModel:
    """Change which versions of a model are served: see `model_folder.serve`."""
    require_name(name)
    with locks.exclusive(output / name):
        config = model_folder.serve(output / name, policy)
    there = tuple(versions.found(output / name))
    return CheckedModel(name, config.backend, there, policy.served(there))


def check(folder: Path) -> Checked:
    """Compare the configurations in a repository with the models beside them: nothing is run, all faults are named.

    Args:
        folder: the repository, or the folder of one model in it.

    Raises:
        BadInputError: no such folder, no model in it, or a file that is no configuration.
        UsageError: a key in a configuration that Triton doesn't know.
        CheckFailedError: a fault; the message has all of them.
        MissingCapabilityError: tritonclient isn't installed.
    """
    protobuf.messages()
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder.", "A model repository is needed: hemf-export triton MODEL -o .")
    alone = (folder / CONFIG).is_file()
    places = [folder] if alone else sorted(path for path in folder.iterdir() if (path / CONFIG).is_file())
    if not places:
        raise BadInputError(f"{folder} is no model repository: no folder of it has a {CONFIG}.")
    models, passed_over, wrong = [], [], {}
    for place in places:
        config, name = protobuf.read(place / CONFIG), place.resolve().name
        if not parameters.described(config):
            passed_over.append(name)
            continue
        there = versions.found(place)
        if found := faults.find(place, name, config, there):
            wrong[name] = found
        served = VersionPolicy.of(config).served(tuple(there))
        models.append(CheckedModel(name, config.backend, tuple(there), served))
    if wrong:
        listed = [f"{name}: {fault}" for name, found in wrong.items() for fault in found]
        raise CheckFailedError(
            f"{folder} is not right:\n  " + "\n  ".join(listed),
            "Write the model again with hemf-export triton, with --force to replace it whole.",
            {"faults": wrong},
        )
    return Checked(folder, tuple(models), tuple(passed_over))


def _check_place(output: Path) -> None:
    """A new folder, an empty one, or one that holds models. Nothing is made yet."""
    if output.exists() and not output.is_dir():
        raise BadInputError(f"{output} is a file, not a folder to write.", "Choose another folder with -o.")
    if output.is_dir():
        shown = [path for path in output.iterdir() if not path.name.startswith(".")]
        if shown and not any((path / CONFIG).is_file() for path in shown):
            raise BadInputError(
                f"{output} is not empty, and no model repository: no folder of it has a {CONFIG}.",
                "Choose a new or an empty folder with -o.",
            )


def name_of(path: Path) -> str:
    """What a model is called in Triton that nobody names: as its file, made fit."""
    return file_names.fit(model_kind.stem(path))


def _renamed(path: Path, name: str) -> list[str]:
    own = model_kind.stem(path)
    return [] if own == name else [f"{own!r} is called {name} in Triton, whose names have fewer signs."]
