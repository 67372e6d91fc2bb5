"""Golden images of an engine: raw pixels in a file beside it, and in its manifest the graph's logits for them.

A graph that outputs probabilities has those in the logits' place, one with a single output two: see
`files.model_output`. The pixels are preprocessed but not normalized, one byte per channel, so that a C++ program can
read them without a library: (n, height, width, 3) in that order and nothing else. They go with the engine to its
target, where `check` shows that the engine computes there what the verified graph computes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.model_input import ModelInput
from hemf_export.metrics.comparison import Comparison, compare


class Infers(Protocol):
    """Anything that computes logits."""

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Network input → logits (N, classes)."""
        ...


@dataclass(frozen=True)
class Golden:
    """Images and the graph's logits for them.

    Args:
        pixels: (n, height, width, 3) uint8, RGB.
        logits: scores (n, classes) float32, of the graph with float16 emulated.
        source: where the images are from, in words.
        max_logit_difference: tolerance of the engine's logits.
    """

    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    source: str
    max_logit_difference: float

    def write(self, engine: Path) -> dict[str, Any]:
        """Write the pixels beside `engine`, and return the entry for its manifest."""
        data = np.ascontiguousarray(self.pixels).tobytes()
        path = place(engine)
        artifacts.write_bytes(path, data)
        return {
            "file": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "shape": list(self.pixels.shape),
            "source": self.source,
            "logits": [[round(float(value), 6) for value in row] for row in self.logits],
            "max_logit_difference": self.max_logit_difference,
        }


@dataclass(frozen=True)
class SelfTest:
    """The result of running an engine on its golden images.

    Args:
        comparison: the engine's logits against the graph's.
        bound: tolerance of their largest difference.
        notes: what a user should know of the engine.
    """

    comparison: Comparison
    bound: float
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """All logits finite and within the bound. A class may only change where two are closer than that."""
        return self.comparison.finite and self.comparison.logit_difference.max <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**self.comparison.to_dict(), "bound": self.bound, "notes": list(self.notes), "passed": self.passed}


def place(engine: Path) -> Path:
    """The path of the golden pixels of `engine`."""
    return engine.with_name(f"{engine.name}.golden")


def read(engine: Path, manifest: dict[str, Any]) -> Golden | None:
    """Read the golden images of an engine; None where its manifest has none.

    Raises:
        BadInputError: the file is missing, or not the one that the manifest describes.
    """
    entry = manifest.get("golden")
    if entry is None:
        return None
    path = place(engine)
    hint = f"Take it along with {engine.name}, or build again."
    try:
        data = path.read_bytes()
        shape = tuple(int(size) for size in entry["shape"])
        logits = np.array(entry["logits"], np.float32)
        bound, expected = float(entry["max_logit_difference"]), entry["sha256"]
        _require_sound(shape, logits, bound)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}, the golden images of {engine.name}, is missing.", hint) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"The golden images of {engine} can't be read: {error}.", hint) from error
    if hashlib.sha256(data).hexdigest() != expected or len(data) != np.prod(shape, dtype=np.int64):
        raise BadInputError(f"{path} is not what the manifest of {engine.name} describes.", hint)
    return Golden(np.frombuffer(data, np.uint8).reshape(shape), logits, str(entry.get("source")), bound)


def check(runner: Infers, golden: Golden, model_input: ModelInput) -> SelfTest:
    """Run the golden images through `runner`.

    Args:
        runner: to be checked.
        golden: images and logits.
        model_input: input that the runner takes.

    Raises:
        BadInputError: the runner takes other images, or has other classes.
    """
    logits = runner.infer(model_input.network(golden.pixels))
    if logits.shape != golden.logits.shape:
        raise BadInputError(
            f"The golden images have logits {golden.logits.shape}, the engine gives {logits.shape}.",
            "They are another engine's. Build again.",
        )
    return SelfTest(compare(logits, golden.logits), golden.max_logit_difference)


def _require_sound(shape: tuple[int, ...], logits: NDArray[np.float32], bound: float) -> None:
    """Raise ValueError where an entry can't come from `Golden.write`."""
    if len(shape) != 4 or min(shape) < 1 or shape[3] != 3:
        raise ValueError(f"their shape is {shape}")
    if logits.ndim != 2 or len(logits) != shape[0] or not logits.size or not np.isfinite(logits).all():
        raise ValueError(f"their logits {logits.shape} are not those of {shape[0]} images, or not finite")
    if not 0 <= bound < np.inf:
        raise ValueError(f"their bound is {bound}")
