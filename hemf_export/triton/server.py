"""A running Triton server, over HTTP or gRPC with tritonclient: what it has, and inference. Failures are told here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from hemf.errors import BadInputError, HemfError, MissingCapabilityError, UsageError
from hemf_export.triton.protobuf import INSTALL

Protocol = Literal["http", "grpc"]
TIMEOUT_S = 60.0
_PORTS: dict[str, int] = {"http": 8000, "grpc": 8001}
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Listed:
    """A version of a model, as the server's index has it.

    Args:
        name: of the model.
        version: of it; empty where none was tried.
        state: READY, UNAVAILABLE, LOADING, UNLOADING; empty where it was never loaded.
        reason: why it isn't ready.
    """

    name: str
    version: str
    state: str
    reason: str


class Server:
    """A server.

    Args:
        url: `http://HOST:PORT` or `grpc://HOST:PORT`; HTTP without a scheme, Triton's own ports without a port.
        timeout_s: for one call.

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
        """Every model that the server knows, ready or not."""
        found = self._call("its list of models", lambda: self._client.get_model_repository_index(**self._plain()))
        entries = found if isinstance(found, list) else found.get("models", [])
        return [Listed(*(str(one.get(key, "")) for key in ("name", "version", "state", "reason"))) for one in entries]

    def configuration(self, name: str, version: str) -> dict[str, Any]:
        """A model's configuration, as JSON has it."""
        found = self._call(name, lambda: self._client.get_model_config(name, version, **self._plain()))
        return dict(found.get("config", found))

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Names, types and shapes of a model's inputs and outputs."""
        return dict(self._call(name, lambda: self._client.get_model_metadata(name, version, **self._plain())))

    def statistics(self, name: str, version: str) -> dict[str, Any]:
        """How many requests it ran, in what batches, and how long they took."""
        found = self._call(name, lambda: self._client.get_inference_statistics(name, version, **self._plain()))
        return dict(found["model_stats"][0])

    def infer(
        self, name: str, version: str, inputs: Mapping[str, tuple[NDArray[np.generic], str]], output: str
    ) -> NDArray[np.generic]:
        """One request.

        Args:
            name: of the model.
            version: that has to answer.
            inputs: name → values, and their type as Triton calls it in a request, FP32.
            output: name of what is wanted.
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
        """End the connection."""
        self._client.close()

    def _plain(self) -> dict[str, Any]:
        return self._each if self.protocol == "http" else {**self._each, "as_json": True}

    def _call(self, what: str, run: Callable[[], _Found]) -> _Found:
        from tritonclient.utils import InferenceServerException

        try:
            return run()
        except InferenceServerException as error:
            raise self._refusal(what, str(error.message() or error), str(error.status() or "")) from error
        except (OSError, EOFError) as error:  # refused, reset, no such host, out of time
            raise self._silent(str(error) or type(error).__name__) from error
        except Exception as error:
            # geventhttpclient and gevent have errors of their own, for an answer that is no HTTP among others.
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
