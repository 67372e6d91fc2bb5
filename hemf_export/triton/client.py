"""A model on a Triton server as a `Predictor`: images are preprocessed here, by the description that its configuration
carries, and classified there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemf.errors import BadInputError, MissingCapabilityError, did_you_mean
from hemf.model_output import LOGITS, ModelOutput
from hemf_export.predictor import Predictor
from hemf_export.triton import parameters
from hemf_export.triton.server import Listed, Server

_KINDS = {"float32": ("FP32", "FP16"), "uint8": ("UINT8",)}


class ServedRunner:
    """Runs batches on a server: one request each, or several where the server takes no more at once.

    Args:
        server: that answers.
        model: its name there.
        version: that has to answer.
        metadata: of the model.
        largest: the most images of a request; None for one fixed batch.
        output: what the model's numbers are.
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
        """Network input → scores (N, classes)."""
        if self._kind == "FP16":
            batch = batch.astype(np.float16)
        size = self._largest or len(batch)
        parts = [self._run(batch[start : start + size]) for start in range(0, len(batch), size)]
        return self._kind_of_output.scores(np.concatenate(parts), len(batch))

    def _run(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        inputs = {self._input: (batch, self._kind)}
        return self._server.infer(self._model, self._version, inputs, self._output)


def load(server: Server, model: str | None = None, version: int | None = None) -> Predictor:
    """A model that the server has ready.

    Args:
        server: to ask.
        model: its name; None where the server has one alone.
        version: None for the highest that is ready.

    Raises:
        BadInputError: no such model or version, or not one that hemf-export wrote.
        MissingCapabilityError: no server there, or the model isn't ready; Triton's own reason is told.
    """
    index = server.index()
    name = model if model is not None else _only(index, server)
    number = _ready(index, name, version, server)
    config, metadata = server.configuration(name, number), server.metadata(name, number)
    shown = f"{name} at {server.url}"
    found = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
    described = parameters.description(found, int(number), shown)
    inputs, outputs = metadata.get("inputs", []), metadata.get("outputs", [])
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInputError(f"{shown} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    wanted, width = _KINDS[described.input_type], math.prod(int(size) for size in outputs[0]["shape"][1:])
    expected = described.output.width(len(described.classes))
    if inputs[0]["datatype"] not in wanted or width != expected:
        raise BadInputError(
            f"{shown} takes {inputs[0]['datatype']} and gives {width} numbers an image; its description says "
            f"{' or '.join(wanted)} and {expected}.",
            "Check its repository: hemf-export triton --check REPO.",
        )
    largest = int(config.get("max_batch_size", 0))
    fixed = None if largest else int(inputs[0]["shape"][0])
    runner = ServedRunner(server, name, number, metadata, largest or None, described.output)
    return Predictor(
        runner.name, described.classes, described.preprocess, described.precision, runner,
        checkpoint_sha256=described.checkpoint_sha256, input_type=described.input_type, fixed_batch=fixed,
        source_size=described.source_size, output_type=described.output_type,
    )  # fmt: skip


def _only(index: list[Listed], server: Server) -> str:
    names = sorted({one.name for one in index})
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadInputError(f"Triton at {server.url} has no model.", "Is its --model-repository the right folder?")
    raise BadInputError(f"Triton at {server.url} has several models: {', '.join(names)}.", "Say which: --model NAME.")


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
