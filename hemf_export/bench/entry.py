"""One of the things that `bench` times: a file, and what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hemf.images import Preprocess
from hemf.model_input import ModelInput, SourceSize
from hemf.model_output import ModelOutput, OutputType
from hemf.reading import PLAIN, Reading
from hemf_export.description import InputType, Precision

Kind = Literal[
    "eager", "channels-last", "amp", "compile", "compile-amp", "compile-graph", "ort-cpu", "ort-cuda", "ort-tensorrt",
    "engine", "engine-no-graph",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
TORCH_KINDS: tuple[Kind, ...] = KINDS[:6]
ORT_KINDS: tuple[Kind, ...] = KINDS[6:9]
ENGINE_KINDS: tuple[Kind, ...] = KINDS[9:]


@dataclass(frozen=True)
class Entry:
    """A file and what runs it; plain enough to be sent to a child process.

    Args:
        name: for reports; one of its kind.
        kind: of runner.
        path: the file.
        device: "cpu" or "cuda".
        transfers: whether input and logits cross to the GPU and back within the time; None on a CPU.
        precision: of the file, or of PyTorch's products.
        input_type: what the file takes.
        preprocess: pixels to input.
        source_size: of the raw images that the file resizes itself, or None.
        reading: how a checkpoint is read.
        output_type: what the file gives of an image.
    """

    name: str
    kind: Kind
    path: Path
    device: str
    transfers: bool | None
    precision: Precision | Literal["bf16"]
    input_type: InputType
    preprocess: Preprocess
    source_size: SourceSize | None = None
    reading: Reading = PLAIN
    output_type: OutputType = "logits"

    @property
    def input(self) -> ModelInput:
        """What the file takes of an image."""
        return ModelInput(self.preprocess, self.input_type == "uint8", self.source_size)

    @property
    def output(self) -> ModelOutput:
        """What the file gives of an image."""
        return ModelOutput(self.output_type)

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        source = None if self.source_size is None else [self.source_size.height, self.source_size.width]
        return {
            **vars(self),
            "path": str(self.path),
            "preprocess": self.preprocess.to_dict(),
            "source_size": source,
            "reading": self.reading.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Entry:
        """The inverse of `to_dict`."""
        special = {
            "path": Path(values["path"]),
            "preprocess": Preprocess.from_dict(values["preprocess"]),
            "source_size": SourceSize.from_list(values["source_size"]),
            "reading": Reading.from_dict(values["reading"]),
        }
        return cls(**{**values, **special})
