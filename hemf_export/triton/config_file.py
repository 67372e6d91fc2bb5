"""Read and write config.pbtxt, Triton's protobuf text of a model's configuration, with parameters for each version:

sha256.1, parent_sha256.1, checkpoint_sha256.1   of the model file, the file it was made from, the checkpoint
hemf.1                                           classes and preprocessing, as in the manifest: what a client needs

tritonclient is optional: it is imported where a configuration is read or written, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from hemf_export.files.errors import BadInputError, MissingCapabilityError, UsageError, did_you_mean
from hemf_export.models.description import Description
from hemf_export.triton.servable import Servable

CONFIG = "config.pbtxt"
INSTALL = "Install it: pip install 'tritonclient[grpc,http]'."
_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]*)"')
DESCRIPTION, SHA256, PARENT, CHECKPOINT = "hemf", "sha256", "parent_sha256", "checkpoint_sha256"


def messages() -> Any:
    """Import the module of Triton's protobuf messages, such as `ModelConfig`.

    Raises:
        MissingCapabilityError: tritonclient isn't installed, or doesn't work with the installed protobuf.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ModuleNotFoundError as error:
        raise MissingCapabilityError(f"tritonclient is not installed here ({error}).", INSTALL) from error
    except Exception as error:
        raise MissingCapabilityError(f"tritonclient can't be imported: {error}.", INSTALL) from error
    return model_config_pb2


def read(path: Path) -> Any:
    """Parse a config.pbtxt.

    Raises:
        BadInputError: no such file, or not the text of a configuration.
        UsageError: a key that Triton doesn't know.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    return parse(text, path)


def parse(text: str, shown: str | Path = CONFIG) -> Any:
    """Parse the text of a `ModelConfig`; `shown` names it in messages. See `read`."""
    known = messages()
    try:
        return text_format.Parse(text, known.ModelConfig())
    except text_format.ParseError as error:
        if unknown := _UNKNOWN_FIELD.search(str(error)):
            message, field = unknown.groups()
            fields = known.DESCRIPTOR.pool.FindMessageTypeByName(message).fields_by_name
            where = f" (line {error.GetLine()})" if error.GetLine() else ""
            raise UsageError(
                f"{shown}{where}: {message.rsplit('.', 1)[-1]} has no key {field!r}.", did_you_mean(field, fields)
            ) from error
        raise BadInputError(f"{shown} is not a configuration of Triton: {error}.") from error
    except (ValueError, TypeError) as error:  # a number out of its field's range
        raise BadInputError(f"{shown} is not a configuration of Triton: {error}.") from error


def to_text(config: Any) -> str:
    """Return the config.pbtxt of a `ModelConfig`, reproducible byte for byte.

    Parameters are sorted by their keys. The text is parsed again and must give the same configuration.
    """
    written: str = text_format.MessageToString(config, as_utf8=True)
    assert parse(written) == config, "the text gives the same configuration"
    return written


def enum_number(kind: str, name: str) -> int:
    """Return the number of an enum value, such as ("DataType", "TYPE_FP32")."""
    return int(_values(kind)[name].number)


def enum_name(kind: str, value: int) -> str:
    """Return the name of an enum value, such as ("DataType", 11)."""
    return next((each for each, one in _values(kind).items() if one.number == value), str(value))


def _values(kind: str) -> Any:
    file = messages().DESCRIPTOR
    return file.pool.FindEnumTypeByName(f"{file.package}.{kind}").values_by_name


def version_parameters(model: Servable, version: int) -> dict[str, str]:
    """Return the parameters of one version."""
    values = {
        DESCRIPTION: json.dumps(model.description.to_dict(), ensure_ascii=False),
        SHA256: model.sha256,
        # The parent of the float32 ONNX file is the checkpoint.
        PARENT: str(model.manifest.get(PARENT) or model.description.checkpoint_sha256),
        CHECKPOINT: model.description.checkpoint_sha256,
    }
    return {f"{key}.{version}": value for key, value in values.items() if value}


def parameters(config: Any) -> dict[str, str]:
    """Return all parameters of a `ModelConfig`."""
    return {key: value.string_value for key, value in config.parameters.items()}


def described_versions(config: Any) -> tuple[int, ...]:
    """Return the versions that a `ModelConfig`'s parameters describe; none if hemf-export didn't write it."""
    numbers = (key.removeprefix(f"{SHA256}.") for key in config.parameters if key.startswith(f"{SHA256}."))
    return tuple(sorted(int(number) for number in numbers if number.isascii() and number.isdigit()))


def description_of(values: Mapping[str, str], version: int, shown: str) -> Description:
    """Read the description of a version's model from the parameters.

    Args:
        values: all parameters.
        version: version number.
        shown: name of the model in messages.

    Raises:
        BadInputError: it is missing or invalid.
    """
    text = values.get(f"{DESCRIPTION}.{version}")
    hint = "Make its repository with `triton_repository()`."
    if text is None:
        raise BadInputError(f"{shown} doesn't tell its classes and preprocessing: no {DESCRIPTION}.{version}.", hint)
    try:
        return Description.from_dict(json.loads(text))
    except (BadInputError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{shown}: its parameter {DESCRIPTION}.{version} can't be read: {error}.", hint) from error
