"""Description of a model, stored in an ONNX file's metadata, in its manifest and in an engine's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import ModelOutput, OutputType
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import Layout, ModelInput, SourceSize

Precision = Literal["fp32", "fp16", "int8", "int8-cpu"]  # int8-cpu: for ONNX Runtime on a CPU, float32 between products
InputType = Literal["float32", "uint8"]


@dataclass(frozen=True)
class Description:
    """Description that a file carries of its model.

    Args:
        name: name of the network's configuration.
        classes: class names, in the order of the scores.
        preprocess: preprocessing of images.
        precision: precision of the graph.
        input_type: float32 takes normalized (N, 3, H, W); uint8 takes raw RGB pixels (N, H, W, 3); see `layout`.
        batch: fixed batch size, or None for any.
        checkpoint_sha256: hash of the checkpoint file that it was made from.
        versions: versions of the packages that made it.
        source_size: size of the raw images that the graph resizes itself; None where they are resized beforehand.
        reading: how that checkpoint was read, where its file leaves a choice.
        output_type: meaning of the graph's output; see `files.model_output`.
        network: the architecture with its authors, for people; empty where that isn't known.
        layout: order of the input's axes in another exporter's file, where it isn't that of `input_type`; else None.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    precision: Precision
    input_type: InputType
    batch: int | None
    checkpoint_sha256: str
    versions: dict[str, str]
    source_size: SourceSize | None = None
    reading: Reading = PLAIN
    output_type: OutputType = "logits"
    network: str = ""
    layout: Layout | None = None

    @property
    def input(self) -> ModelInput:
        """Input of the model."""
        return ModelInput(self.preprocess, self.input_type == "uint8", self.source_size, self.layout)

    @property
    def output(self) -> ModelOutput:
        """Output of the model."""
        return ModelOutput(self.output_type)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for metadata and manifests; a source size is [height, width]."""
        source = self.source_size
        own = dict(vars(self))
        reading, network, layout = own.pop("reading").to_dict(), own.pop("network"), own.pop("layout")
        return {
            **own,
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_dict(),
            "source_size": None if source is None else [source.height, source.width],
            **({"reading": reading} if reading else {}),
            **({"network": network} if network else {}),
            **({"layout": layout} if layout else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Description:
        """Read what `to_dict` gave, also before there were source sizes and output types (logits then)."""
        _check_kinds(values)
        special = {
            "classes": tuple(values["classes"]),
            "preprocess": Preprocess.from_dict(values["preprocess"]),
            "source_size": SourceSize.from_list(values.get("source_size")),
            "reading": Reading.from_dict(values.get("reading")),
        }
        return cls(**{**values, **special})

    @classmethod
    def from_manifest(cls, path: Path, manifest: dict[str, Any]) -> Description:
        """Read the description from the manifest of the engine `path`.

        Raises:
            BadInputError: it is missing or invalid.
        """
        try:
            unsaid = {"source_size": None, "reading": None, "output_type": "logits", "network": "", "layout": None}
            values = {**unsaid, **manifest}
            return cls.from_dict({field.name: values[field.name] for field in dataclasses.fields(cls)})
        except (BadInputError, KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"The manifest of {path} doesn't tell classes and preprocessing: {error}.", "Build the engine again."
            ) from error


def _check_kinds(values: dict[str, Any]) -> None:
    """Raise ValueError where a value has another type than `Description.to_dict` gives."""
    batch, classes = values["batch"], values["classes"]
    right = {
        "name": isinstance(values["name"], str),
        "classes": isinstance(classes, list) and len(classes) > 1 and all(isinstance(name, str) for name in classes),
        "precision": values["precision"] in get_args(Precision),
        "input_type": values["input_type"] in get_args(InputType),
        "batch": batch is None or (type(batch) is int and batch > 0),
        "checkpoint_sha256": isinstance(values["checkpoint_sha256"], str),
        "versions": isinstance(values["versions"], dict),
        "source_size": values.get("source_size") is None or values["input_type"] == "uint8",
        "output_type": values.get("output_type", "logits") in get_args(OutputType),
        "network": isinstance(values.get("network", ""), str),
        "layout": values.get("layout") in (None, *get_args(Layout)),
    }
    for name in (name for name, fine in right.items() if not fine):
        raise ValueError(f"{name} is {values[name]!r}")
    if ModelOutput(values.get("output_type", "logits")).single and len(classes) != 2:
        raise ValueError(f"output_type is {values['output_type']!r} and classes is {classes!r}")
