"""Reading and writing the bytes of a checkpoint without ever running what is in them.

Knows file formats, not networks: `hemf.checkpoint` gives the content its meaning.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors
from torch import Tensor

from hemf.errors import BadInputError

_METADATA_KEY = "hemf"
# In torch's message where a pickle asks for a function or a class that is not on its list.
_FORBIDDEN = ("unsupported GLOBAL", "Unsupported global", "unrecognized function", "Can only create", "Can only build")
_NEW_PROTOCOL = ("operand 147", "operand 149")  # STACK_GLOBAL and FRAME of pickle protocol 4, which torch doesn't read
_DAMAGED = "The file is empty, cut short or damaged: copy or make it again."


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a `torch.save` file, read with `weights_only=True`.

    Raises:
        BadInputError: empty, truncated or damaged; a TorchScript or exported program; anything but plain types and
            tensors, which is refused without being run.
    """
    _refuse_programs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an unusual pickle protocol, which is read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in _FORBIDDEN):
            raise BadInputError(
                f"{path} holds more than tensors and plain values, which could run code: refused, and not run.",
                "Save a state dict: torch.save(model.state_dict(), path).",
            ) from error
        if any(sign in str(error) for sign in _NEW_PROTOCOL):
            raise BadInputError(
                f"{path} has a pickle protocol that is only read where it could run code: refused, and not run.",
                "Save it again: torch.save(model.state_dict(), path).",
            ) from error
        raise BadInputError(f"{path} is not a checkpoint that can be read.", _DAMAGED) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, ValueError, KeyError … on damaged files
        raise BadInputError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}).", _DAMAGED
        ) from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} holds a {type(content).__name__}, not a checkpoint.", "A dictionary is needed.")
    return content


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a `.safetensors` file, and our header if it has one.

    Raises:
        BadInputError: not such a file, whatever is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    if data[8:9] != b"{" and (data[:1] == b"\x80" or data[:2] == b"PK"):
        raise BadInputError(f"{path} is named .safetensors but holds a pickle: refused.", "Give it its true name, .pt.")
    try:
        tensors = parse_safetensors(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        header = json.loads(metadata[_METADATA_KEY]) if _METADATA_KEY in metadata else None
        classes = json.loads(metadata["classes"]) if "classes" in metadata else None
    except (SafetensorError, ValueError, TypeError, KeyError, struct.error, RuntimeError) as error:
        raise BadInputError(f"{path} is not a whole .safetensors file: {error}.", _DAMAGED) from error
    if header is not None:
        if not isinstance(header, dict):
            raise BadInputError(f"{path} has a header that is not a dictionary.", _DAMAGED)
        return {**header, "model": tensors}
    return {"net": tensors, "classes": classes}


def safetensors_bytes(state: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """A `.safetensors` file with the header, and a digest of all of it, in its metadata."""
    full = {**header, "sha256": content_digest({**header, "model": state})}
    tensors = {name: value.contiguous() for name, value in state.items()}
    return serialize_safetensors(tensors, metadata={_METADATA_KEY: json.dumps(full)})


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 over a nest of dictionaries, lists, plain values and tensors, whatever file they are in."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"tensor {array.dtype} {tuple(array.shape)}".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)}".encode())
            for key in sorted(value, key=str):
                digest.update(f"{type(key).__name__} {key!r} ".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{type(value).__name__} {value!r} ".encode())

    add(content)
    return digest.hexdigest()


def _refuse_programs(path: Path) -> None:
    """TorchScript (`code/`, `constants.pkl`) and `.pt2` archives hold programs, not state dicts."""
    if path.stat().st_size == 0:
        raise BadInputError(f"{path} is empty.", _DAMAGED)
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise BadInputError(f"{path} is not a checkpoint that can be read.", _DAMAGED) from error
    if any(name == "constants.pkl" or name.startswith("code/") for name in names):
        raise BadInputError(f"{path} is a TorchScript program, not a checkpoint.", "Save a state dict instead.")
    if any(name.startswith(("models/", "serialized_exported_program")) or name == "archive_format" for name in names):
        raise BadInputError(f"{path} is an exported program (.pt2), not a checkpoint.", "Save a state dict instead.")
