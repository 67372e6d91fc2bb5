"""Options of a shipment, from flags or a TOML file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hemf_export.checkpoints.reading import Reading
from hemf_export.files.errors import BadInputError, UsageError, did_you_mean

PrecisionChoice = Literal["auto", "fp16"]
Metric = Literal["accuracy", "balanced-accuracy"]
BackendChoice = Literal["auto", "tensorrt", "tensorrt-rtx"]
InputType = Literal["float32", "uint8"]
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(PrecisionChoice),
    "metric": get_args(Metric),
    "backend": get_args(BackendChoice),
    "input": get_args(InputType),
}


@dataclass(frozen=True)
class Options:
    """Options of all steps. Each has a key in the TOML file and a flag.

    Args:
        target: GPU or compute capability.
        max_drop: largest drop of the metric on held-out images that INT8 may cost, in percentage points.
        precision: auto chooses INT8 where its engine is modelled 5 % faster within `max_drop`, else FP16.
        metric: metric of `max_drop`.
        backend: TensorRT or TensorRT-RTX.
        batch: MIN:OPT:MAX, the engine's optimization profile.
        input: float32 takes normalized images, uint8 raw pixels.
        source_size: HxW of raw images that the graph resizes; empty where they are resized beforehand.
        classes: class names a,b,c for a checkpoint that has none; empty for its own.
        weights: set of weights of the checkpoint, by its name there; empty for the network's own.
        image_size: input size in pixels, for a checkpoint that doesn't state it; 0 for its own.
        factory: `package.module:function` of a network of the user's own; empty for others.
        bench: whether to measure latency.
        bench_seconds: time limit per batch size.
        golden: number of golden images in the bundle; 0 for none.
        noise: make golden images of noise, so that none of the data is in the bundle.
        triton: include a repository for Triton.
        cpp: include the C++ sources.
        use: file with the model card's text on intended use; empty for none.

    Raises:
        UsageError: a value out of range.
    """

    target: str = "t4"
    max_drop: float = 0.5
    precision: PrecisionChoice = "auto"
    metric: Metric = "accuracy"
    backend: BackendChoice = "auto"
    batch: str = "1:8:32"
    input: InputType = "float32"
    source_size: str = ""
    classes: str = ""
    weights: str = ""
    image_size: int = 0
    factory: str = ""
    bench: bool = True
    bench_seconds: float = 10.0
    golden: int = 4
    noise: bool = False
    triton: bool = True
    cpp: bool = True
    use: str = ""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"{name} has no {value!r}.", did_you_mean(value, choices))
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"max_drop is in points, 0 to 100, not {self.max_drop:g}.")
        if not 0 < self.bench_seconds < float("inf"):
            raise UsageError(f"bench_seconds must be positive, not {self.bench_seconds:g}.")
        if self.golden < 0:
            raise UsageError(f"golden is a number of images, not {self.golden}.")
        if self.image_size < 0:
            raise UsageError(f"image_size is a number of pixels, not {self.image_size}.")
        if self.source_size and self.input != "uint8":
            raise UsageError("source_size is for raw pixels.", "Add input uint8.")

    def only(self, *names: str) -> dict[str, Any]:
        """Some of the options, as the inputs of a step."""
        return {name: getattr(self, name) for name in names}

    @property
    def reading(self) -> Reading:
        """How the checkpoint is read."""
        return Reading(self.weights or None, self.image_size or None, self.factory or None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Given class names; None for the checkpoint's own."""
        return tuple(name.strip() for name in self.classes.split(",")) if self.classes else None

    @classmethod
    def read(cls, path: Path | None, changes: Mapping[str, Any] | None = None) -> Options:
        """Read a TOML file of options.

        Args:
            path: the file; None for the defaults.
            changes: options that win over the file's.

        Raises:
            BadInputError: no such file, or not TOML.
            UsageError: a key that is unknown, a value of another type or out of range.
        """
        values = {} if path is None else _read(path)
        try:
            return cls(**{**values, **(changes or {})})
        except UsageError as error:
            if path is None:
                raise
            raise UsageError(f"{path}: {error.message}", error.hint) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.", "Is the path right?") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path} is not a TOML file: {str(error).rstrip('.')}.", 'Lines like `target = "t4"`.'
        ) from error
    return {name: _checked(path, name, value) for name, value in values.items()}


def _checked(path: Path, name: str, value: Any) -> Any:
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    if name not in defaults:
        raise UsageError(f"{path}: unknown key {name!r}.", did_you_mean(name, defaults))
    kind = type(defaults[name])
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        words = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}
        raise UsageError(
            f"{path}: {name} must be {words[kind]}, not {json.dumps(value, default=str)}.",
            f"{name} = {json.dumps(defaults[name])}",
        )
    return value
