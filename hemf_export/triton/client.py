"""Client of a running Triton server, over HTTP or gRPC with tritonclient. A served model becomes a `Predictor`: images
are preprocessed here, by the description in the model's configuration, and classified on the server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError, UsageError, did_you_mean
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.models.predictor import Predictor
from hemf_export.triton import config_file
from hemf_export.triton.config_file import INSTALL

Protocol = Literal["http", "grpc"]
TIMEOUT_S = 60.0
_PORTS: dict[str, int] = {"http": 8000, "grpc": 8001}
_Answer = TypeVar("_Answer")
_KINDS = {"float32": ("FP32", "FP16"), "uint8": ("UINT8",)}


@dataclass(frozen=True)
class Listed:
    """Version of a model in the server's index.

    Args:
        name: name of the model.
        version: version number; empty if none was loaded.
        state: READY, UNAVAILABLE, LOADING, UNLOADING; empty if it was never loaded.
        reason: why it isn't ready.
    """

    name: str
    version: str
    state: str
    reason: str


class Server:
    """Connection to a Triton server.

    Args:
        url: `http://HOST:PORT` or `grpc://HOST:PORT`; HTTP without a scheme, Triton's own ports without a port.
        timeout_s: time limit of one call.

    Raises:
        UsageError: another kind of URL.
        MissingCapabilityError: tritonclient isn't installed.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.protocol, address = _address(url)
        self.url, self._timeout_s = f"{self.protocol}://{address}", timeout_s
        try:
            if self.protocol == "http":
                import tritonclient.http as module
            else:
                import tritonclient.grpc as module
        except ModuleNotFoundError as error:
            raise MissingCapabilityError(f"tritonclient is not installed here ({error}).", INSTALL) from error
        except Exception as error:
            raise MissingCapabilityError(f"tritonclient can't be imported: {error}.", INSTALL) from error
        self._module: Any = module
        limits = {"connection_timeout": timeout_s, "network_timeout": timeout_s} if self.protocol == "http" else {}
        self._client = module.InferenceServerClient(address, **limits)
        self._each: dict[str, Any] = {} if self.protocol == "http" else {"client_timeout": timeout_s}

    def index(self) -> list[Listed]:
        """List every model that the server knows, ready or not."""
        listed = self._call("its list of models", lambda: self._client.get_model_repository_index(**self._plain()))
        entries = listed if isinstance(listed, list) else listed.get("models", [])
        return [Listed(*(str(one.get(key, "")) for key in ("name", "version", "state", "reason"))) for one in entries]

    def configuration(self, name: str, version: str) -> dict[str, Any]:
        """Return a model's configuration in its JSON form."""
        answer = self._call(name, lambda: self._client.get_model_config(name, version, **self._plain()))
        return dict(answer.get("config", answer))

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return names, types and shapes of a model's inputs and outputs."""
        return dict(self._call(name, lambda: self._client.get_model_metadata(name, version, **self._plain())))

    def statistics(self, name: str, version: str) -> dict[str, Any]:
        """Return the number of a model's requests, their batch sizes and their times."""
        answer = self._call(name, lambda: self._client.get_inference_statistics(name, version, **self._plain()))
        return dict(answer["model_stats"][0])

    def infer(
        self, name: str, version: str, inputs: Mapping[str, tuple[NDArray[np.generic], str]], output: str
    ) -> NDArray[np.generic]:
        """Send one request; return its output.

        Args:
            name: name of the model.
            version: version that must answer.
            inputs: name → values and their type in Triton's request format, such as FP32.
            output: name of the output to return.
        """
        given = []
        for key, (array, kind) in inputs.items():
            one = self._module.InferInput(key, list(array.shape), kind)
            one.set_data_from_numpy(np.ascontiguousarray(array))
            given.append(one)
        wanted = [self._module.InferRequestedOutput(output)]

        def run() -> Any:
            return self._client.infer(name, given, model_version=version, outputs=wanted, **self._each)

        values: NDArray[np.generic] | None = self._call(name, run).as_numpy(output)
        if values is None:
            raise BadInputError(f"{name} at {self.url} gave no {output}.")
        return values

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _plain(self) -> dict[str, Any]:
        return self._each if self.protocol == "http" else {**self._each, "as_json": True}

    def _call(self, what: str, run: Callable[[], _Answer]) -> _Answer:
        from tritonclient.utils import InferenceServerException

        try:
            return run()
        except InferenceServerException as error:
            raise self._refusal(what, str(error.message() or error), str(error.status() or "")) from error
        except (OSError, EOFError) as error:  # refused, reset, unknown host, timeout
            raise self._silent(str(error) or type(error).__name__) from error
        except Exception as error:
            # geventhttpclient and gevent raise errors of their own, for answers that aren't HTTP for instance.
            raise self._silent(f"{type(error).__name__}: {error}") from error

    def _refusal(self, what: str, message: str, status: str) -> HemfError:
        if "UNAVAILABLE" in status and "Request for unknown model" not in message and "not ready" not in message:
            return self._silent(message)
        if "DEADLINE_EXCEEDED" in status or "timed out" in message.lower():
            return self._silent(f"no answer within {self._timeout_s:g} s")
        return BadInputError(f"Triton at {self.url} refuses {what}: {message}.")

    def _silent(self, reason: str) -> MissingCapabilityError:
        port = f"--{self.protocol}-port"
        return MissingCapabilityError(
            f"No Triton server answers at {self.url}: {reason.rstrip('.')}.",
            f"Is it running, and is that its {port}? It prints its ports when it starts.",
        )


def _address(url: str) -> tuple[Protocol, str]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    hint = "Like http://localhost:8000 or grpc://localhost:8001."
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not the URL of a server: {error}.", hint) from error
    if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(f"{url!r} is not the URL of a Triton server.", hint)
    protocol: Protocol = "grpc" if parts.scheme == "grpc" else "http"
    shown = f"[{host}]" if ":" in host else host
    return protocol, f"{shown}:{port or _PORTS[protocol]}"


class ServedRunner:
    """Runner of batches on a server: one request each, or several beyond the largest batch that the server takes.

    Args:
        server: server that answers.
        model: name of the model.
        version: version that must answer.
        metadata: metadata of the model.
        largest: largest number of images in a request; None for one fixed batch.
        output: kind of the model's output.
    """

    def __init__(
        self, server: Server, model: str, version: str, metadata: Mapping[str, Any], largest: int | None,
        output: ModelOutput = LOGITS,
    ) -> None:  # fmt: skip
        self.name = f"Triton at {server.url}, {model} version {version}"
        self._server, self._model, self._version, self._largest = server, model, version, largest
        self._kind_of_output = output
        (images,), (logits,) = metadata["inputs"], metadata["outputs"]
        self._input, self._kind, self._output = str(images["name"]), str(images["datatype"]), str(logits["name"])

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute scores (N, classes) of network input."""
        if self._kind == "FP16":
            batch = batch.astype(np.float16)
        size = self._largest or len(batch)
        parts = [self._run(batch[start : start + size]) for start in range(0, len(batch), size)]
        return self._kind_of_output.scores(np.concatenate(parts), len(batch))

    def _run(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        inputs = {self._input: (batch, self._kind)}
        return self._server.infer(self._model, self._version, inputs, self._output)


def load(server: Server, model: str | None = None, version: int | None = None) -> Predictor:
    """Load a model that is ready on a server.

    Args:
        server: the server.
        model: name of the model; None if the server has only one.
        version: version number; None for the highest that is ready.

    Raises:
        BadInputError: no such model or version, or not one that hemf-export wrote.
        MissingCapabilityError: no server there, or the model isn't ready; the message has Triton's reason.
    """
    index = server.index()
    name = model if model is not None else _only(index, server)
    number = _ready(index, name, version, server)
    config, metadata = server.configuration(name, number), server.metadata(name, number)
    shown = f"{name} at {server.url}"
    parameters = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
    described = config_file.description_of(parameters, int(number), shown)
    inputs, outputs = metadata.get("inputs", []), metadata.get("outputs", [])
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInputError(f"{shown} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    wanted, width = _KINDS[described.input_type], math.prod(int(size) for size in outputs[0]["shape"][1:])
    expected = described.output.width(len(described.classes))
    if inputs[0]["datatype"] not in wanted or width != expected:
        raise BadInputError(
            f"{shown} takes {inputs[0]['datatype']} and gives {width} numbers an image; its description says "
            f"{' or '.join(wanted)} and {expected}.",
            "Check its repository: `check_repository(REPO)`.",
        )
    largest = int(config.get("max_batch_size", 0))
    fixed = None if largest else int(inputs[0]["shape"][0])
    runner = ServedRunner(server, name, number, metadata, largest or None, described.output)
    return Predictor(described, runner, fixed_batch=fixed)


def _only(index: list[Listed], server: Server) -> str:
    names = sorted({one.name for one in index})
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadInputError(f"Triton at {server.url} has no model.", "Does it serve the right model repository?")
    raise BadInputError(f"Triton at {server.url} has several models: {', '.join(names)}.", "Say which: `model=NAME`.")


def _ready(index: list[Listed], name: str, version: int | None, server: Server) -> str:
    own = [one for one in index if one.name == name]
    if not own:
        raise BadInputError(
            f"Triton at {server.url} has no model {name!r}.", did_you_mean(name, {one.name for one in index})
        )
    ready = sorted(int(one.version) for one in own if one.state == "READY")
    if version is not None and version not in ready:
        reasons = [one.reason for one in own if one.version == str(version) and one.reason]
        raise BadInputError(
            f"{name} at {server.url} has no version {version} ready{': ' + reasons[0] if reasons else ''}.",
            f"Ready: {', '.join(map(str, ready)) or 'none'}.",
        )
    if not ready:
        reasons = list(dict.fromkeys(one.reason or one.state or "it was not loaded" for one in own))
        raise MissingCapabilityError(
            f"{name} at {server.url} is not ready: {'; '.join(reasons)}.", "The server's log has the whole story."
        )
    return str(version or ready[-1])
