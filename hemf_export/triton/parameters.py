"""What a configuration says of its versions in its parameters: hashes for whoever traces a file, and the description.

sha256.1, parent_sha256.1, checkpoint_sha256.1   of the model file, the file it was made from, the checkpoint
hemf.1                                           classes and preprocessing, as in the manifest: what a client needs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hemf.errors import BadInputError
from hemf_export.description import Description
from hemf_export.triton.model_file import ModelFile

DESCRIPTION, SHA256, PARENT, CHECKPOINT = "hemf", "sha256", "parent_sha256", "checkpoint_sha256"


def of(model: ModelFile, version: int) -> dict[str, str]:
    """The parameters of one version."""
    values = {
        DESCRIPTION: json.dumps(model.description.to_dict(), ensure_ascii=False),
        SHA256: model.sha256,
        # The float32 ONNX file is made from the checkpoint itself.
        PARENT: str(model.manifest.get(PARENT) or model.description.checkpoint_sha256),
        CHECKPOINT: model.description.checkpoint_sha256,
    }
    return {f"{key}.{version}": value for key, value in values.items() if value}


def texts(config: Any) -> dict[str, str]:
    """All parameters of a `ModelConfig`."""
    return {key: value.string_value for key, value in config.parameters.items()}


def described(config: Any) -> tuple[int, ...]:
    """The versions that the parameters of a `ModelConfig` speak of; none in one that hemf-export didn't write."""
    numbers = (key.removeprefix(f"{SHA256}.") for key in config.parameters if key.startswith(f"{SHA256}."))
    return tuple(sorted(int(number) for number in numbers if number.isascii() and number.isdigit()))


def description(found: Mapping[str, str], version: int, shown: str) -> Description:
    """What parameters say of a version's model.

    Args:
        found: all parameters.
        version: of the model.
        shown: what the model is called in messages.

    Raises:
        BadInputError: nothing, or nonsense.
    """
    text = found.get(f"{DESCRIPTION}.{version}")
    hint = "Make its repository with hemf-export triton."
    if text is None:
        raise BadInputError(f"{shown} doesn't tell its classes and preprocessing: no {DESCRIPTION}.{version}.", hint)
    try:
        return Description.from_dict(json.loads(text))
    except (BadInputError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{shown}: its parameter {DESCRIPTION}.{version} can't be read: {error}.", hint) from error
