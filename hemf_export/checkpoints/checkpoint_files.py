"""Read and write checkpoint files without ever running code in them.

Knows file formats, not networks: `checkpoints.checkpoint` gives the content its meaning.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import re
import shlex
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors
from torch import Tensor

from hemf_export.checkpoints.checkpoint_container import START_BYTES, container_of, members, program_of
from hemf_export.files.errors import BadInputError

_METADATA_KEY = "hemf"
# In torch's message where a pickle asks for a function or a class that isn't on its allowlist.
_FORBIDDEN = ("unsupported GLOBAL", "Unsupported global", "unrecognized function", "Can only create", "Can only build")
_NEW_PROTOCOL = ("operand 147", "operand 149")  # STACK_GLOBAL and FRAME of pickle protocol 4, which torch doesn't read
_DAMAGED = "The file is of another kind, cut short or damaged: copy or make it again."
# Usual keys of a state dict; looked for in a refused pickle, to say how the weights can be extracted.
_USUAL_KEYS = ("state_dict", "model_state_dict", "state_dict_ema", "ema_state_dict", "model_ema", "model", "net", "ema")
_PICKLE_READ_BYTES = 1 << 20  # of a refused pickle, for that
_PICKLES = 4  # one after another in torch's legacy format, before the tensors; the last is the dictionary


@dataclass(frozen=True)
class Content:
    """Content of a checkpoint file.

    Args:
        values: the dictionary of a pickle, or tensors by name; with our header, the header and the tensors as `model`.
        metadata: strings beside the tensors of a `.safetensors` file.
    """

    values: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Content:
    """Read a checkpoint file, whatever its name. A pickle named .safetensors is refused.

    Raises:
        BadInputError: see `read_pickle` and `read_safetensors`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    if container_of(start) == "safetensors" or path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    return Content(read_pickle(path))


def read_pickle(path: Path) -> dict[str, Any]:
    """Read the dictionary in a `torch.save` file, with `weights_only=True`.

    Raises:
        BadInputError: empty, truncated or damaged; a TorchScript or exported program; anything but plain types and
            tensors, which is refused without running it.
    """
    _refuse_programs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an unusual pickle protocol, which is read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in _FORBIDDEN):
            asked = re.search(r"GLOBAL ([\w.<>]+)", str(error))
            what = f" ({asked[1]})" if asked else ""
            raise BadInputError(
                f"{path} holds more than tensors and plain values{what}, which could run code: refused, and not run.",
                _way_out(path),
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


def read_safetensors(path: Path) -> Content:
    """Read the tensors of a `.safetensors` file, and our header if it has one.

    Raises:
        BadInputError: not a whole `.safetensors` file.
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
    except (SafetensorError, ValueError, TypeError, KeyError, struct.error, RuntimeError) as error:
        raise BadInputError(f"{path} is not a whole .safetensors file: {error}.", _DAMAGED) from error
    if header is not None:
        if not isinstance(header, dict):
            raise BadInputError(f"{path} has a header that is not a dictionary.", _DAMAGED)
        return Content({**header, "model": tensors})
    return Content(tensors, metadata)


def safetensors_bytes(state: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """Serialize a `.safetensors` file with the header, and a digest of header and tensors, in its metadata."""
    full = {**header, "sha256": content_digest({**header, "model": state})}
    tensors = {name: value.contiguous() for name, value in state.items()}
    return serialize_safetensors(tensors, metadata={_METADATA_KEY: json.dumps(full)})


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 over nested dictionaries, lists, plain values and tensors, independent of the file format."""
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
    """Raise BadInputError for empty files, and for TorchScript and `.pt2` archives, which hold programs."""
    if path.stat().st_size == 0:
        raise BadInputError(f"{path} is empty.", _DAMAGED)
    if not zipfile.is_zipfile(path):
        return
    for name in (name.split("/", 1)[-1] for name in members(path)):
        if kind := program_of(name):
            raise BadInputError(f"{path} is {kind}, not a checkpoint.", "Save a state dict instead.")


def _way_out(path: Path) -> str:
    """Hint on how to extract the weights of a refused pickle that is trusted; nothing of it is run here."""
    usual_key = next((key for key in _USUAL_KEYS if key in _texts(path)), None)
    if usual_key is None:
        return "Save a state dict: torch.save(model.state_dict(), path)."
    plain = str(path.with_name(f"{path.name.split('.')[0]}.weights.pt"))
    code = f"import torch; torch.save(torch.load({str(path)!r}, 'cpu', weights_only=False)[{usual_key!r}], {plain!r})"
    return f"If you trust whoever made it, take its weights out where it may run code: python -c {shlex.quote(code)}"


def _texts(path: Path) -> set[str]:
    """Collect the strings in a pickle, in a zip archive or alone, as far as its opcodes can be parsed."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as member:
                    data = member.read(_PICKLE_READ_BYTES)
        else:
            with open(path, "rb") as file:
                data = file.read(_PICKLE_READ_BYTES)
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, NotImplementedError, RuntimeError):
        return set()
    texts: set[str] = set()
    start = 0
    try:
        for _ in range(_PICKLES):
            for operation, argument, place in pickletools.genops(data[start:]):
                if "UNICODE" in operation.name and isinstance(argument, str):
                    texts.add(argument)
                if operation.name == "STOP":
                    start += (place or 0) + 1
    except Exception:  # noqa: BLE001 - hostile bytes: what was parsed so far is enough for a hint
        pass
    return texts
