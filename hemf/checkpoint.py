"""Checkpoints: a network's weights and all that inference needs, in plain types.

A `.pt` file of ours is read with `weights_only=True` and nothing else: no code in it can run. It carries a digest of
its own content, so that a changed bit is seen. `.safetensors` is written and read too, and the authors' files are
taken directly (see `hemf.authors`).
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hemf import artifacts, authors, names, state_dict
from hemf.checkpoint_files import content_digest, read_pickle, read_safetensors, safetensors_bytes
from hemf.config import HemfConfig
from hemf.errors import BadInputError
from hemf.images import Preprocess
from hemf.model import HEMF

FORMAT = "hemf-checkpoint"
FORMAT_VERSION = 1
CLASS_INDICES = "class_indices.json"  # what the authors' training script writes beside its checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Args:
        config: the network's configuration.
        classes: class names, in the order of the logits.
        preprocess: how images become its input.
        state: parameters and buffers by name, on the CPU, float32 (int64 for BatchNorm's counters).
        metrics: figures measured when it was saved.
        provenance: how it came to be: recipe, seed, data, versions.
        training: what resuming needs; only in `last.pt`.
        dropped: parameters of the authors' file that take no part, left out.
        notes: what a user should know about how the file was read.
        sha256: of the file that it was read from; empty before it was saved.
    """

    config: HemfConfig
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
                "Give as many names as the classifier has outputs with --classes a,b,c.",
            )
        if len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise BadInputError(f"Class names must differ and not be empty: {', '.join(self.classes)}.")
        if self.preprocess.size != self.config.image_size:
            raise BadInputError(
                f"The preprocessing gives {self.preprocess.size} pixels, the network takes {self.config.image_size}."
            )

    def model(self) -> HEMF:
        """The network with a copy of these weights, in evaluation mode."""
        model = state_dict.build_empty(self.config)
        model.load_state_dict(self.state)
        return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def check_finite(self) -> None:
        """Raise BadInputError where a weight is NaN or infinite, with its name."""
        bad = [name for name, value in self.state.items() if not torch.isfinite(value).all()]
        if bad:
            raise BadInputError(
                f"Non-finite values in {len(bad)} tensors: {state_dict.first(bad)}.",
                "The training diverged: take an earlier checkpoint.",
            )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically, as `.safetensors` if the name says so (without what resuming needs), else as a `.pt` file.

    The same content gives the same bytes.
    """
    header = _header(checkpoint)
    if path.suffix == ".safetensors":
        artifacts.write_bytes(path, safetensors_bytes(checkpoint.state, header))
        return
    content = {**header, "model": checkpoint.state}
    if checkpoint.training is not None:
        content["training"] = checkpoint.training
    buffer = io.BytesIO()
    torch.save({**content, "sha256": content_digest(content)}, buffer)
    artifacts.write_bytes(path, buffer.getbuffer())


def load(path: Path, *, classes: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint: ours, a `.safetensors` file, or the authors'.

    Args:
        path: the file.
        classes: class names, for a file that has none; for one that has, they must agree.

    Raises:
        BadInputError: anything wrong with the file; see `hemf.checkpoint_files` for what is refused.
    """
    if not path.is_file():
        raise BadInputError(f"No checkpoint at {path}.", "Is the path right?")
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    try:
        checkpoint = _ours(content) if content.get("format") == FORMAT else _foreign(path, content, classes)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise BadInputError(f"{path} is not a whole checkpoint: {type(error).__name__} {reason}.") from error
    if classes is not None and not names.same(classes, checkpoint.classes):
        raise BadInputError(
            f"{path} has the classes {', '.join(checkpoint.classes)}, not {', '.join(classes)}.", "Leave out --classes."
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


def _ours(content: dict[str, Any]) -> Checkpoint:
    if content["version"] != FORMAT_VERSION:
        raise BadInputError(
            f"format version {content['version']}; this program reads {FORMAT_VERSION}.", "Update hemf-export."
        )
    digest = content.pop("sha256")
    if digest != content_digest(content):
        raise BadInputError("its content is not what was saved (the digest disagrees).", "Copy or make it again.")
    _check_kinds(content)
    config = HemfConfig.from_dict(content["config"])
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
    """Raise BadInputError where a part of our own format is of another kind than `save` writes."""
    kinds = {"config": dict, "classes": list, "preprocess": dict, "model": dict, "metrics": dict, "provenance": dict}
    if "training" in content:
        kinds["training"] = dict
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise BadInputError(f"its {name!r} is a {type(content[name]).__name__}, not a {kind.__name__}.")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise BadInputError(f"class names must be text, not {content['classes']!r}.")


def _foreign(path: Path, content: dict[str, Any], classes: Sequence[str] | None) -> Checkpoint:
    """A bare state dict, or one under `net`, in the authors' names or ours."""
    state = content["net"] if isinstance(content.get("net"), dict) else content
    tensors = {
        state_dict.strip_prefixes(str(key)): value.detach() for key, value in state.items() if isinstance(value, Tensor)
    }
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if not tensors or strange:
        what = f"holds no state dict; its keys: {state_dict.first([str(key) for key in state]) or 'none'}"
        raise BadInputError(f"{what}.", "A HEMF checkpoint, a bare state dict or one under 'net' is needed.")
    if len(tensors) < len(state):
        names = [state_dict.strip_prefixes(str(key)) for key in state]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BadInputError(
            f"{len(twice)} tensors are there twice, with a prefix and without: {state_dict.first(twice)}.",
            "Keep one of each.",
        )
    dropped: list[str] = []
    notes: list[str] = []
    if authors.is_authors_layout(tensors):
        tensors, dropped = authors.convert(tensors)
        notes.append(f"Authors' layout: {len(dropped)} tensors that take no part were left out.")
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    config = authors.infer_config(tensors)
    state_dict.check(tensors, config)
    if classes is None and state is not content and isinstance(content.get("classes"), list):
        classes = [str(name) for name in content["classes"]]
    if classes is None:
        classes = _class_indices(path.parent / CLASS_INDICES)
    if classes is None:
        classes = [f"class_{index}" for index in range(config.num_classes)]
        notes.append("The file names no classes: they are called class_0, class_1 … (give --classes a,b,c).")
    return Checkpoint(
        config=config,
        classes=tuple(classes),
        preprocess=Preprocess.for_size(config.image_size),
        state=tensors,
        provenance={"layout": "authors" if dropped else "state dict", "file": path.name},
        dropped=tuple(dropped),
        notes=tuple(notes),
    )


def _class_indices(path: Path) -> list[str] | None:
    """Class names in the order of their labels, from `{"0": "name"}` or `{"name": 0}`; None where there is no file."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        pairs = [
            (int(key), str(value)) if str(key).isdigit() else (int(value), str(key)) for key, value in values.items()
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInputError(f"{path} doesn't map labels to names: {error}.") from error
    if sorted(label for label, _ in pairs) != list(range(len(pairs))):
        raise BadInputError(f"{path} doesn't number the classes from 0 without a gap.")
    return [name for _, name in sorted(pairs)]
