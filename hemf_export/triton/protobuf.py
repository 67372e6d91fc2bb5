"""Triton's own protobuf of a model's configuration, from tritonclient, and config.pbtxt, its text.

tritonclient is optional: it is imported where a configuration is read or written, and nowhere else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from hemf.errors import BadInputError, MissingCapabilityError, UsageError, did_you_mean

INSTALL = "Install it: pip install 'hemf-export[triton]'."
_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]*)"')


def messages() -> Any:
    """The module with Triton's messages, `ModelConfig` among them.

    Raises:
        MissingCapabilityError: tritonclient isn't installed, or doesn't work with the protobuf that is.
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


def parse(text: str, shown: str | Path = "config.pbtxt") -> Any:
    """The `ModelConfig` of a text; `shown` names it in messages. See `read`."""
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
    except (ValueError, TypeError) as error:  # a number that its field can't hold
        raise BadInputError(f"{shown} is not a configuration of Triton: {error}.") from error


def text(config: Any) -> str:
    """config.pbtxt of a `ModelConfig`, the same bytes for the same configuration.

    Its parameters are sorted by their keys. What is written is parsed again: it has to give the same configuration.
    """
    written: str = text_format.MessageToString(config, as_utf8=True)
    assert parse(written) == config, "what was written is what was meant"
    return written


def number(kind: str, name: str) -> int:
    """The number of an enumeration's value: ("DataType", "TYPE_FP32")."""
    return int(_values(kind)[name].number)


def name(kind: str, value: int) -> str:
    """The name of an enumeration's value: ("DataType", 11)."""
    return next((each for each, one in _values(kind).items() if one.number == value), str(value))


def _values(kind: str) -> Any:
    file = messages().DESCRIPTOR
    return file.pool.FindEnumTypeByName(f"{file.package}.{kind}").values_by_name
