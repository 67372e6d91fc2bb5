"""Find contradictions between a model's configuration and its files, each described in words; none is fixed.

Triton itself detects some of these on loading a model, others only at a batch size that the engine doesn't take, and
wrong labels never.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hemf_export.files.errors import HemfError
from hemf_export.triton import config_file, servable, served_files
from hemf_export.triton.options import VersionPolicy
from hemf_export.triton.servable import NUMPY_TYPES, Servable, Tensor
from hemf_export.triton.served_files import WARMUP_FOLDER


def find(folder: Path, name: str, config: Any, versions: Mapping[int, Path]) -> list[str]:
    """Compare a configuration with a model's folder and with each of its versions.

    Args:
        folder: folder of the model, with labels and warm-up data.
        name: present or future name of the folder.
        config: a `ModelConfig`.
        versions: folder of each version, which may be elsewhere.
    """
    problems = [*_name(name, config), *_policy(config, versions)]
    classes: dict[tuple[str, ...], int] = {}
    single = False
    for version, place in versions.items():
        try:
            model = servable.read(_file(place))
        except HemfError as error:
            problems.append(f"version {version}: {error.message}")
            continue
        own = [
            *_model(config, model),
            *_hashes(config, model, version),
            *served_files.program_faults(place, model, config, version),
        ]
        problems += [f"version {version}: {fault}" for fault in own]
        classes.setdefault(model.description.classes, version)
        single = single or model.description.output.single
    if len(classes) > 1:
        problems.append(f"versions {' and '.join(map(str, classes.values()))} have other classes than each other")
    if classes and not single:
        problems += _labels(folder, config, next(iter(classes)))
    elif single and config.output and config.output[0].label_filename:
        problems.append(
            "the output names labels, but it is a single number: Triton would take the first for all images"
        )
    problems += _warmup(folder, config)
    return problems


def _file(version: Path) -> Path:
    names = sorted(set(servable.FILE_NAMES.values()))
    return next((version / name for name in names if (version / name).is_file()), version / names[0])


def _name(name: str, config: Any) -> Iterator[str]:
    if config.name != name:
        yield f"it is called {config.name!r}, its folder {name!r}"


def _policy(config: Any, versions: Mapping[int, Path]) -> Iterator[str]:
    policy, there = VersionPolicy.of(config), tuple(versions)
    known = config_file.described_versions(config)
    missing = sorted({*policy.specific, *known} - set(there))
    for version in missing:
        why = "the version policy asks for it" if version in policy.specific else "its hash is in the parameters"
        yield f"version {version} has no folder, though {why}"
    for version in sorted(set(there) - set(known)):
        yield f"version {version} is not described in the parameters: no {config_file.SHA256}.{version}"
    if not policy.served(there):
        yield "no version would be served"


def _model(config: Any, model: Servable) -> Iterator[str]:
    if refusal := servable.backend_mismatch(model, config.backend):
        yield refusal
        return
    opened = servable.OPENED[config.backend]
    if config.default_model_filename not in ("", opened):
        yield f"default_model_filename is {config.default_model_filename!r}; the {config.backend} backend has {opened}"
    yield from _batches(config, model)
    lead = () if config.max_batch_size or model.fixed_batch is None else (model.fixed_batch,)
    yield from _tensor("input", config.input, model.input, lead)
    yield from _tensor("output", config.output, model.output, lead)
    yield from _groups(config, model)


def _batches(config: Any, model: Servable) -> Iterator[str]:
    largest, most = config.max_batch_size, model.largest_batch
    fills = config.backend == "python"  # model.py splits and pads batches to sizes that the file takes
    if largest < 0:
        yield f"max_batch_size is {largest}"
    elif model.fixed_batch is not None and not fills:
        if largest:
            fixed = f"{model.path.name} has the fixed batch {model.fixed_batch}"
            yield f"max_batch_size is {largest}; {fixed}: it must be 0"
    elif largest == 0:
        yield f"max_batch_size is 0, though {model.path.name} takes several sizes: {model.batches}"
    elif most is not None and largest > most:
        yield f"max_batch_size {largest} is over what {model.path.name} takes: {model.batches}"
    elif not fills and (gap := next((size for size in range(1, largest + 1) if not model.takes(size)), 0)):
        yield f"a batch of {gap} may come, which {model.path.name} doesn't take: {model.batches}"
    if config.HasField("dynamic_batching") and largest <= 1:
        yield f"dynamic_batching with max_batch_size {largest}: there is nothing to batch"
    for size in config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= largest:
            yield f"the preferred batch size {size} is not 1 to max_batch_size {largest}"
        elif not fills and not model.takes(size):
            yield f"the preferred batch size {size} is outside what {model.path.name} takes: {model.batches}"


def _tensor(what: str, listed: Any, wanted: Tensor, lead: tuple[int, ...]) -> Iterator[str]:
    if len(listed) != 1:
        yield f"{len(listed)} {what}s are named, the model has one: {wanted.name}"
        return
    (given,) = listed
    if given.name != wanted.name:
        yield f"the {what} is called {given.name!r}, in the model {wanted.name!r}"
    kind = config_file.enum_name("DataType", given.data_type)
    if kind != wanted.dtype:
        yield f"the {what} is {kind}, in the model {wanted.dtype}"
    if tuple(given.dims) != (*lead, *wanted.dims):
        yield f"the {what} has the dims {list(given.dims)}, in the model {[*lead, *wanted.dims]}"


def _groups(config: Any, model: Servable) -> Iterator[str]:
    for group in config.instance_group:
        kind = config_file.enum_name("ModelInstanceGroup.Kind", group.kind)
        if model.flavour != "onnx" and kind not in ("KIND_GPU", "KIND_AUTO"):
            yield f"an engine can't run on {kind}"
        if model.flavour == "onnx" and kind == "KIND_GPU" and model.description.precision == "int8-cpu":
            yield f"{model.path.name} is quantized for a CPU, and would run on {kind}"
        known = {str(index) for index in range(len(model.profiles))}
        if strange := [profile for profile in group.profile if profile not in known]:
            yield f"the engine has no optimization profile {', '.join(strange)}"
        if config.backend == "tensorrt" and len(known) > 1 and (left := known - set(group.profile)):
            yield f"optimization profile {', '.join(sorted(left))} is not named: batches that only it takes would fail"


def _hashes(config: Any, model: Servable, version: int) -> Iterator[str]:
    for key, wanted in config_file.version_parameters(model, version).items():
        given = config.parameters[key].string_value if key in config.parameters else None
        if given != wanted and key.startswith(config_file.DESCRIPTION):
            yield f"the parameter {key} is not the description in its manifest"
        elif given != wanted:
            yield f"the parameter {key} is {str(given)[:16]}…, by the manifest {wanted[:16]}…"


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in the folder itself."""
    return bool(name) and "\0" not in name and Path(name).name == name


def _labels(folder: Path, config: Any, classes: tuple[str, ...]) -> Iterator[str]:
    name = config.output[0].label_filename if config.output else ""
    if not name:
        yield "the output names no label file"
        return
    if not _is_plain(name):
        yield f"the label file {name!r} is not in the model's folder"
        return
    path = folder / name
    try:
        given = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        yield f"the label file {name} can't be read: {getattr(error, 'strerror', None) or error}"
        return
    if len(given) != len(classes):
        yield f"{name} has {len(given)} labels, the model {len(classes)} classes"
    elif given != classes:
        yield f"{name} says {', '.join(given)}; the model's classes are {', '.join(classes)}"


def _warmup(folder: Path, config: Any) -> Iterator[str]:
    for entry in config.model_warmup:
        if not 1 <= entry.batch_size <= max(1, config.max_batch_size):
            yield f"warm-up {entry.name!r} has the batch size {entry.batch_size}, outside 1 to {config.max_batch_size}"
        for name, image in entry.inputs.items():
            inputs = [one for one in config.input if one.name == name]
            if not inputs or image.data_type != inputs[0].data_type or list(image.dims) != list(inputs[0].dims):
                yield f"warm-up {entry.name!r} has another input than the model: {name} {list(image.dims)}"
                continue
            path = folder / WARMUP_FOLDER / image.input_data_file
            kind = config_file.enum_name("DataType", image.data_type)
            if kind not in NUMPY_TYPES:
                yield f"warm-up {entry.name!r} has images of {kind}"
                continue
            wanted = NUMPY_TYPES[kind]().itemsize * math.prod(image.dims)
            if not _is_plain(image.input_data_file) or not path.is_file():
                yield f"warm-up {entry.name!r} reads {image.input_data_file!r}, which is not in {WARMUP_FOLDER}/"
            elif path.stat().st_size != wanted:
                yield f"{WARMUP_FOLDER}/{path.name} has {path.stat().st_size:,} bytes, its shape needs {wanted:,}"
