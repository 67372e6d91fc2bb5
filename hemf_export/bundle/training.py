"""How the checkpoint of a bundle was trained, as it says itself: for the model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hemf import artifacts, checkpoint
from hemf.errors import BadInputError
from hemf_export import discover
from hemf_export.triton.model_file import ModelFile
from train.recipe import Recipe

_PAPERS = Recipe().to_dict()


def read(given: Path | None, models: Sequence[ModelFile]) -> dict[str, Any] | None:
    """What the checkpoint tells of its training; None where it isn't at hand.

    Args:
        given: the checkpoint; None looks for it beside the models, by its hash.
        models: made from it.

    Raises:
        BadInputError: another checkpoint, or none.
    """
    sha256, reading = models[0].description.checkpoint_sha256, models[0].description.reading
    if given is None:
        places = dict.fromkeys(model.path.parent for model in models)
        found = next(filter(None, (discover.checkpoint_of(place, sha256) for place in places)), None)
        return None if found is None else checkpoint.load(found, reading=reading).provenance
    saved = checkpoint.load(given, reading=reading)
    if artifacts.sha256(given) != sha256:
        raise BadInputError(
            f"{given} is not the checkpoint that {models[0].path.name} was made from.",
            "Leave out --checkpoint: it is looked for beside the files.",
        )
    return saved.provenance


def lines(
    told: Mapping[str, Any] | None, images: Callable[[Mapping[str, Any]], str], cell: Callable[[object], str]
) -> list[str]:
    """The card's lines on training.

    Args:
        told: what the checkpoint tells; None where it isn't at hand.
        images: words for images as a manifest has them.
        cell: a text, made safe for Markdown.
    """
    if told is None:
        return ["- Training: not stated, the checkpoint was not beside the files (`hemf-export bundle --checkpoint`)."]
    try:
        used = told["images"]
        found = [f"- Training: {images(used['train'])}", f"- Choice of the epoch: {images(used['val'])}"]
    except (KeyError, TypeError, AttributeError):  # of the authors, or from before images were stated
        found = ["- Training: not stated in the checkpoint."]
    if isinstance(told.get("recipe"), Mapping):
        differs = [f"{name} {value}" for name, value in told["recipe"].items() if value != _PAPERS.get(name)]
        found.append("- Recipe: the paper's (Table 5)" + (f", but {cell(', '.join(differs))}" if differs else ""))
    if isinstance(teacher := told.get("teacher"), Mapping):
        found.append(f"- Teacher: {cell(teacher.get('model'))}, checkpoint {cell(teacher.get('checkpoint_sha256'))}")
    return found
