"""Checkpoints: a network's weights and all that inference needs, in plain types.

A `.pt` file is only ever read with `weights_only=True`: no code in it can run. Ours has a digest of its content, so
that a changed bit is noticed. `.safetensors` is written and read too. Files of other training programs are read as they
are: see `checkpoints.weight_sets` for where their weights are, and `networks.hemf.authors` for the authors' names.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hemf_export.checkpoints import checkpoint_files, class_names, state_dict, weight_sets
from hemf_export.checkpoints.checkpoint_files import Content, content_digest, safetensors_bytes
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.checkpoints.weight_sets import WeightSet
from hemf_export.files import artifacts, names
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.networks import factory, own, registry
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.network import Family, memory_format

FORMAT = "hemf-checkpoint"
FORMAT_VERSION = 1
CLASS_KEYS = ("classes", "class_names", "class_to_idx")  # keys of class names in files of other training programs
CLASS_INDICES = "class_indices.json"  # written by the authors' training script beside its checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Args:
        config: the network's configuration.
        classes: class names, in the order of the logits.
        preprocess: how images become its input.
        state: parameters and buffers by name, on the CPU, float32 (int64 for BatchNorm's counters).
        metrics: validation metrics when it was saved.
        provenance: recipe, seed, data and versions of the training.
        training: state for resuming; only in `last.pt`.
        dropped: unused parameters of the authors' file that were left out.
        notes: remarks for the user on how the file was read.
        sha256: hash of the file that it was read from; empty before it was saved.
    """

    config: NetworkConfig
    classes: tuple[str, ...]
    preprocess: Preprocess
    state: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ""

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.num_classes:
            raise BadInputError(
                f"{len(self.classes)} class names for {self.config.num_classes} outputs.",
                "Give as many names as the classifier has outputs with `classes=(a, b, c)`.",
            )
        if self.config.num_classes < 2:
            raise BadInputError(
                "The network has a single output, where a checkpoint has one for each class.",
                "Train it with two outputs, or export it yourself: ONNX files of a single output are accepted.",
            )
        if len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise BadInputError(f"Class names must differ and not be empty: {', '.join(self.classes)}.")
        if self.preprocess.size != self.config.image_size:
            raise BadInputError(
                f"The preprocessing gives {self.preprocess.size} pixels, the network takes {self.config.image_size}."
            )

    def model(self) -> nn.Module:
        """Build the network with a copy of these weights, in evaluation mode."""
        model = registry.family_of(self.config).build_empty(self.config)
        model.load_state_dict(self.state)
        return model.to(memory_format=memory_format(model)).eval()  # type: ignore[call-overload]

    def check_finite(self) -> None:
        """Raise BadInputError, with names, where weights are NaN or infinite."""
        bad = [name for name, value in self.state.items() if not torch.isfinite(value).all()]
        if bad:
            raise BadInputError(
                f"Non-finite values in {len(bad)} tensors: {state_dict.first(bad)}.",
                "The training diverged: take an earlier checkpoint.",
            )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically: as `.safetensors` if the name says so (without the state for resuming), else as a `.pt` file.

    Equal content gives equal bytes.
    """
    header = _header(checkpoint)
    if path.suffix.lower() == ".safetensors":
        artifacts.write_bytes(path, safetensors_bytes(checkpoint.state, header))
        return
    content = {**header, "model": checkpoint.state}
    if checkpoint.training is not None:
        content["training"] = checkpoint.training
    buffer = io.BytesIO()
    torch.save({**content, "sha256": content_digest(content)}, buffer)
    artifacts.write_bytes(path, buffer.getbuffer())


def load(path: Path, *, classes: Sequence[str] | None = None, reading: Reading = PLAIN) -> Checkpoint:
    """Read a checkpoint: ours, the authors', or a state dict of another training program, in a pickle or safetensors.

    Args:
        path: the file, whatever its name.
        classes: class names, for a file that has none; for one that has, they must agree.
        reading: which of several sets of weights, and the image size, where the file leaves them open; and the factory
            of a network of the user's own.

    Raises:
        BadInputError: anything wrong with the file; see `checkpoints.checkpoint_files` for what is refused.
    """
    if not path.is_file():
        raise BadInputError(f"No checkpoint at {path}.", "Is the path right?")
    content = checkpoint_files.read(path)
    try:
        if content.values.get("format") == FORMAT:
            checkpoint = _ours(content.values, reading)
            _require_own(checkpoint, reading)
        else:
            checkpoint = _foreign(path, content, classes, reading)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise BadInputError(f"{path} is not a whole checkpoint: {type(error).__name__} {reason}.") from error
    if classes is not None and not names.same(classes, checkpoint.classes):
        raise BadInputError(
            f"{path} has the classes {', '.join(checkpoint.classes)}, not {', '.join(classes)}.", "Leave out `classes`."
        )
    return dataclasses.replace(checkpoint, sha256=artifacts.sha256(path))


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "classes": list(checkpoint.classes),
        "preprocess": checkpoint.preprocess.to_dict(),
        "metrics": checkpoint.metrics,
        "provenance": checkpoint.provenance,
    }


def _ours(content: dict[str, Any], reading: Reading) -> Checkpoint:
    if content["version"] != FORMAT_VERSION:
        raise BadInputError(
            f"format version {content['version']}; this program reads {FORMAT_VERSION}.", "Update hemf-export."
        )
    digest = content.pop("sha256")
    if digest != content_digest(content):
        raise BadInputError("its content is not what was saved (the digest disagrees).", "Copy or make it again.")
    _check_kinds(content)
    config = own.trusted(registry.config_from_dict(content["config"]), reading.factory)
    state_dict.check(content["model"], config)
    return Checkpoint(
        config=config,
        classes=tuple(content["classes"]),
        preprocess=Preprocess.from_dict(content["preprocess"]),
        state=dict(content["model"]),
        metrics=content["metrics"],
        provenance=content["provenance"],
        training=content.get("training"),
    )


def _check_kinds(content: dict[str, Any]) -> None:
    """Raise BadInputError where a part of our own format has another type than `save` writes."""
    kinds = {"config": dict, "classes": list, "preprocess": dict, "model": dict, "metrics": dict, "provenance": dict}
    if "training" in content:
        kinds["training"] = dict
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise BadInputError(f"its {name!r} is a {type(content[name]).__name__}, not a {kind.__name__}.")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise BadInputError(f"class names must be text, not {content['classes']!r}.")


def _require_own(checkpoint: Checkpoint, reading: Reading) -> None:
    """Raise BadInputError where a reading contradicts a file of ours, which states everything."""
    if reading.weights is not None:
        raise BadInputError(f"it has one set of weights, and none called {reading.weights!r}.", "Leave out `weights`.")
    if reading.image_size not in (None, checkpoint.config.image_size):
        raise BadInputError(
            f"it records that its images have {checkpoint.config.image_size} pixels, not {reading.image_size}.",
            "Leave out `image_size`.",
        )


@dataclass(frozen=True)
class _Network:
    """A set of weights as a network's state dict, in our layout and types.

    Args:
        config: the network's configuration.
        state: tensors by our names.
        dropped: unused parameters of the authors' layout.
        counters: number of BatchNorm counters that were filled in.
        kinds: types of the file's tensors that were converted to float32.
    """

    config: NetworkConfig
    state: dict[str, Tensor]
    dropped: tuple[str, ...]
    counters: int
    kinds: tuple[str, ...]


def _network(weights: WeightSet, family: Family, image_size: int | None) -> _Network:
    """Convert a set of weights; raise BadInputError where its tensors are not those of a whole network."""
    if weights.unknown:
        names = state_dict.first(weights.unknown)
        raise BadInputError(f"The tensors are not this network's: {len(weights.unknown)} unexpected: {names}.")
    tensors, dropped = family.convert(weights.tensors)
    floats = [value for value in tensors.values() if value.is_floating_point()]
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in floats} - {"float32"})
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    config = family.infer(tensors, image_size)
    tensors, counters = state_dict.fill_counters(tensors, config)
    state_dict.check(tensors, config, weights.beside)
    return _Network(config, tensors, tuple(dropped), counters, tuple(kinds))


def _foreign(path: Path, content: Content, classes: Sequence[str] | None, reading: Reading) -> Checkpoint:
    """Read a state dict in the authors' names or ours, wherever in the file it is."""
    family, sets = _weight_sets(content, reading)

    networks: dict[WeightSet, _Network] = {}

    def refusal(one: WeightSet) -> BadInputError | None:
        try:
            networks[one] = _network(one, family, reading.image_size)
        except BadInputError as error:
            return error
        return None

    chosen = weight_sets.choose(sets, reading.weights, refusal)
    network = networks.get(chosen) or _network(chosen, family, reading.image_size)
    image_size = network.config.image_size
    assumed: dict[str, Any] = {} if reading.image_size else {"image_size": image_size}
    own = _stored_classes(content, classes)
    if own is not None and classes is not None and len(own) != network.config.num_classes:
        own = None  # they belong to something else: the given names take precedence
    beside = _beside(path, ignored=classes is not None) if own is None else None
    named = own or (tuple(classes) if classes is not None else beside)
    if named is None:
        named = tuple(f"class_{index}" for index in range(network.config.num_classes))
        assumed["classes"] = list(named)
    provenance: dict[str, Any] = {"layout": "authors" if network.dropped else "state dict", "file": path.name}
    return Checkpoint(
        config=network.config,
        classes=named,
        preprocess=Preprocess.for_size(image_size),
        state=network.state,
        provenance={
            **provenance,
            **({"weights": chosen.name} if chosen.name else {}),
            **({"assumed": assumed} if assumed else {}),
        },
        dropped=network.dropped,
        notes=(
            *_notes_of_weights(content.values, chosen, sets, network),
            *_notes_of_names(named, beside, assumed),
        ),
    )


def _weight_sets(content: Content, reading: Reading) -> tuple[Family, list[WeightSet]]:
    """Find the family whose weights a file holds, and where they are.

    Raises:
        BadInputError: it holds the weights of no registered network, or not those of the user's own.
    """
    if reading.factory is not None:
        family: Family = own.family(reading.factory)
        if found := weight_sets.find(content.values, family.layout):
            return family, found
        raise BadInputError(
            f"holds no state dict of {reading.factory}; its keys: {_keys(content)}.",
            f"Its own begin with {state_dict.first(sorted(family.layout.roots))}.",
        )
    there: list[tuple[Family, list[WeightSet]]] = []
    recognized: list[list[WeightSet]] = []
    for family in registry.FAMILIES.values():
        found = weight_sets.find(content.values, family.layout)
        if own_sets := [one for one in found if family.layout.recognizes(list(one.tensors))]:
            there.append((family, found))
            recognized.append(own_sets)
    meant = [
        place
        for place, sets in enumerate(recognized)
        if reading.weights is None or any(one.is_under(reading.weights) for one in sets)
    ]
    if len(meant) > 1:
        shown = [f"{there[place][0].name} under {recognized[place][0].shown}" for place in meant]
        ways = [f"`weights={recognized[place][0].name or weight_sets.NO_NAME!r}`" for place in meant]
        raise BadInputError(
            f"it has the weights of several networks: {', '.join(shown)}.", f"Say which: {' or '.join(ways)}."
        )
    if there:
        return there[meant[0] if meant else 0]
    raise BadInputError(
        f"holds no state dict of a registered network; its keys: {_keys(content)}.",
        "A checkpoint or a state dict of one is needed: torch.save(model.state_dict(), path). If it is of a network of "
        f"your own, say so: `factory='{factory.FORM}'`.",
    )


def _keys(content: Content) -> str:
    return state_dict.first([str(key) for key in content.values]) or "none"


def _notes_of_weights(
    content: Mapping[str, Any], chosen: WeightSet, sets: Sequence[WeightSet], network: _Network
) -> list[str]:
    """Notes on what was read from the file, left out, and converted."""
    notes = []
    others = [one for one in sets if one is not chosen and 2 * len(one.tensors) > len(chosen.tensors)]
    left_out = [name for name in chosen.left_out(content) if name not in CLASS_KEYS]
    if chosen.name or left_out:
        rest = f"; left out: {state_dict.first(left_out)} ({len(left_out)} in all)" if left_out else ""
        notes.append(f"The weights were taken from {chosen.shown}{rest}.")
    if others:
        notes.append(
            f"It has other sets of weights, under {', '.join(one.shown for one in others)}: "
            f"`weights={others[0].name or weight_sets.NO_NAME!r}` takes them."
        )
    if network.dropped:
        notes.append(f"Authors' layout: {len(network.dropped)} tensors that take no part were left out.")
    if network.kinds:
        notes.append(f"Its weights are {' and '.join(network.kinds)}: taken as float32.")
    if network.counters:
        notes.append(
            f"{network.counters} counters of BatchNorm ({state_dict.COUNTERS}), which inference never reads, are not "
            "in the file: set to 0."
        )
    return notes


def _notes_of_names(named: Sequence[str], beside: Sequence[str] | None, assumed: Mapping[str, Any]) -> list[str]:
    """Notes on assumptions, and on class names beside the file that disagree."""
    notes = []
    if beside is not None and beside != named:
        notes.append(f"{CLASS_INDICES} beside it has other names than were given: {', '.join(beside)}.")
    if "image_size" in assumed:
        notes.append(
            f"The file doesn't say its image size: {assumed['image_size']} pixels are assumed (`image_size=N` says "
            "another)."
        )
    if "classes" in assumed:
        notes.append("The file names no classes: they are called class_0, class_1 … (give `classes=(a, b, c)`).")
    return notes


def _stored_classes(content: Content, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Read class names that the file has beside its weights; None without them. A number of classes doesn't count.

    Raises:
        BadInputError: it doesn't say which name has which label, and no names are given.
    """
    inner = content.values.get("hyper_parameters")
    for place in (content.metadata, content.values, inner if isinstance(inner, dict) else {}):
        for key in CLASS_KEYS:
            value = place.get(key)
            if not value or isinstance(value, int | float | Tensor) or (isinstance(value, str) and value.isdigit()):
                continue
            try:
                return class_names.parse(value, f"its {key!r}")
            except BadInputError:
                if given is None:
                    raise
    return None


def _beside(path: Path, *, ignored: bool) -> tuple[str, ...] | None:
    """Read class names from the file that the authors' training writes beside its checkpoints; None without it.

    Raises:
        BadInputError: it can't be parsed, and isn't `ignored` because names were given.
    """
    place = path.parent / CLASS_INDICES
    try:
        return class_names.read(place) if place.exists() else None
    except BadInputError:
        if ignored:
            return None
        raise
