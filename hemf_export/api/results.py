"""Results of the Python API: files with their manifests, and reports; notebooks show both as tables."""

from __future__ import annotations

import html
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hemf_export.files.errors import UsageError
from hemf_export.metrics.percentage import percentage
from hemf_export.pages.figures import size

if TYPE_CHECKING:
    from hemf_export.calibration.budget import Budget
    from hemf_export.calibration.trials import BlockSensitivity
    from hemf_export.metrics.comparison import Comparison
    from hemf_export.models.description import Description
    from hemf_export.models.proof import Proof

PathLike = str | os.PathLike[str]


class Shown(ABC):
    """Result that a notebook shows as a table of its main facts."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return the main facts of the result, names and values."""

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts().items()
        )
        return f"<table>{rows}</table>"


@dataclass(frozen=True)
class FileResult(Shown):
    """File that was written, with its manifest. It is a path itself: `open(result)` opens the file.

    Args:
        path: path of the file.
        manifest: content of its manifest `FILE.json`, in plain types.
        notes: remarks for the user.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Convert the manifest with the file's path to plain types."""
        return {**self.manifest, "file": str(self.path), "notes": list(self.notes)}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        there = {"size": size(self.path.stat().st_size)} if self.path.is_file() else {}  # it may have moved since
        return {"file": str(self.path), **there, **self._facts()}

    def _facts(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class TrainResult(Shown):
    """Finished training run; as a path, its best checkpoint.

    Args:
        path: the run's folder.
        manifest: content of summary.json: the best epoch, and metrics by split.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def checkpoint(self) -> Path:
        """Checkpoint with the best validation accuracy."""
        return self.path / "best.pt"

    def __fspath__(self) -> str:
        return os.fspath(self.checkpoint)

    def to_dict(self) -> dict[str, Any]:
        """Convert the summary to plain types."""
        return {**self.manifest, "folder": str(self.path)}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        shares = {
            f"{split} accuracy": percentage(values["accuracy"], values["images"])
            for split, values in self.manifest["splits"].items()
        }
        return {"checkpoint": str(self.checkpoint), "epoch": str(self.manifest["epoch"]), **shares}


@dataclass(frozen=True)
class OnnxFile(FileResult):
    """ONNX file, proven against the file that it was made from."""

    @property
    def precision(self) -> str:
        """Precision: `fp32`, `fp16`, `int8` or `int8-cpu`."""
        return str(self.manifest["precision"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(self.manifest["classes"])

    @property
    def proof(self) -> Proof | None:
        """Comparison with the file that it was made from: `figures`, and the `images` that they were measured on; None
        if the manifest has none."""
        from hemf_export.models import proof

        return proof.of_manifest(self.manifest)

    @property
    def noun(self) -> str:
        """Kind of the file's scores: "logit" or "probability"."""
        from hemf_export.files.model_output import ModelOutput

        return ModelOutput(self.manifest.get("output_type", "logits")).noun

    @property
    def form(self) -> str | None:
        """The backend's form that the graph was rewritten for, in words; None where the manifest doesn't say."""
        from hemf_export.calibration.forms import Rewriting

        form = self.manifest.get("form", {})
        return str(Rewriting(form["for"], form["passes"])) if "passes" in form else None

    @property
    def int8_beside_fp16(self) -> str | None:
        """The INT8 engine's modelled time beside the FP16 engine's, in words; None where they were not compared."""
        from hemf_export.precision import int8_choice

        gain = int8_choice.of_manifest(self.manifest)
        return None if gain is None else int8_choice.beside(gain)

    def _facts(self) -> dict[str, str]:
        return {"precision": self.precision, "classes": ", ".join(self.classes)}


@dataclass(frozen=True)
class ExportedFile(OnnxFile):
    """Float32 ONNX file of a checkpoint.

    Args:
        description: description of the model in the file.
        nodes: number of nodes in the graph.
        rewriting: passes that optimized it for a backend, in words.
        proven_on: source of the images of the proof.
        batches: batch sizes that it was proven at.
    """

    description: Description = field(kw_only=True, repr=False)
    nodes: int = field(kw_only=True)
    rewriting: str = field(kw_only=True)
    proven_on: str = field(kw_only=True)
    batches: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True)
class QuantizedFile(OnnxFile):
    """FP16 or INT8 file.

    Args:
        target: GPU that engines of it are for.
        budget: allowed loss; None for no budget.
        sensitivities: sensitivity of each block to INT8; empty if not measured.
        int8_blocks: names of the blocks in INT8; empty for a reused file.
        reports: files with the sensitivities.
    """

    target: str = "t4"
    budget: Budget | None = None
    sensitivities: tuple[BlockSensitivity, ...] = field(default=(), repr=False)
    int8_blocks: frozenset[str] = field(default=frozenset(), repr=False)
    reports: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FineTunedFile(OnnxFile):
    """INT8 file with fine-tuned weights.

    Args:
        before: comparison of the original INT8 file with the checkpoint on the held-out images.
        after: comparison of this file with the checkpoint on the same images.
        epoch: epoch that was kept.
    """

    before: Comparison = field(kw_only=True, repr=False)
    after: Comparison = field(kw_only=True, repr=False)
    epoch: int = field(kw_only=True)


@dataclass(frozen=True)
class EngineFile(FileResult):
    """TensorRT engine.

    Args:
        graph: ONNX file that it was built from.
    """

    graph: OnnxFile = field(kw_only=True)

    @property
    def compiled_to(self) -> str | None:
        """The compiled kernels, in a line; None where the builder doesn't tell them."""
        from hemf_export.pages import census_text

        census = census_text.of_manifest(self.manifest)
        return None if census is None else census_text.line(census.summary())

    @property
    def int8_work(self) -> str | None:
        """Share of the multiply-adds that are computed in INT8, in words; None where that isn't known."""
        from hemf_export.precision import compiled_precision

        compiled = self.manifest["compiled_precision"]
        return None if compiled is None else compiled_precision.work(compiled)

    def summary(self) -> dict[str, Any]:
        """Return the manifest with the file's path, without the lists of kernels."""
        from hemf_export.pages import census_text

        return {**census_text.without_lists(self.manifest), "file": str(self.path)}

    def _facts(self) -> dict[str, str]:
        build = self.manifest.get("build", {})
        return {"built from": str(self.graph.path), "profiles": ", ".join(build.get("profiles", ()))}


@dataclass(frozen=True)
class BundleFile(FileResult):
    """Bundle: one archive with models, proofs, golden images and everything to serve them."""

    sha256: str = ""
    """SHA-256 of the archive."""
    contents_sha256: str = ""
    """SHA-256 of its contents, without timings."""
    files: int = 0
    """Number of files in it."""

    def _facts(self) -> dict[str, str]:
        return {"models": ", ".join(model["file"] for model in self.manifest["models"]), "SHA-256": self.sha256}


@dataclass(frozen=True)
class Report(Shown):
    """Measured result.

    Args:
        values: the result in plain types, as in its JSON.
        notes: remarks for the user.
    """

    values: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert the result to plain types."""
        return dict(self.values)

    def save(self, path: PathLike) -> Path:
        """Write the result as JSON; return its path."""
        from hemf_export.files import artifacts

        target = Path(path)
        artifacts.write_json(target, self.to_dict())
        return target


class _Outcome(Protocol):
    def write(self, *, html: Path | None = None, markdown: Path | None = None) -> None: ...

    def require(self, hint: str | None = None) -> None: ...


@dataclass(frozen=True)
class Written(Report):
    """Report with a verdict, which can also be written as an HTML page or a Markdown summary."""

    _outcome: _Outcome = field(kw_only=True, repr=False)

    def require(self, hint: str | None = None) -> None:
        """Raise CheckFailedError if a check failed.

        Args:
            hint: advice to add to the error.
        """
        self._outcome.require(hint)

    def save(self, path: PathLike) -> Path:
        """Write the result: a page for `.html`, a summary for `.md`, JSON for any other suffix; return its path."""
        target = Path(path)
        if target.suffix not in (".html", ".md"):
            return super().save(target)
        if target.suffix == ".html":
            self._outcome.write(html=target)
        else:
            self._outcome.write(markdown=target)
        return target


def path_of(path: PathLike | None) -> Path | None:
    """Convert a path; None stays None."""
    return None if path is None else Path(path)


def paths_of(files: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """Convert one path or several to a tuple."""
    return (Path(files),) if isinstance(files, str | os.PathLike) else tuple(Path(file) for file in files)


def names_of(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Class names as libraries take them.

    Raises:
        UsageError: one string, which would be read as a name for each of its letters.
    """
    if isinstance(classes, str):
        raise UsageError(f"Class names are a list, not the string {classes!r}.", "Give `classes` as a list.")
    return None if classes is None else tuple(classes)
