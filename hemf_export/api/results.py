"""Results of the Python API: files with their manifests, and reports; a notebook shows either as a table."""

from __future__ import annotations

import html
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hemf_export.metrics.percentage import percentage
from hemf_export.pages.figures import size

PathLike = str | os.PathLike[str]


class Shown(ABC):
    """Show a result in a notebook, as a table of its main facts."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Names and values that come first when the result is read."""

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts().items()
        )
        return f"<table>{rows}</table>"


@dataclass(frozen=True)
class FileResult(Shown):
    """A file that was written, with the manifest beside it. It is a path itself: `open(result)` opens the file.

    Args:
        path: where the file is.
        manifest: what `FILE.json` says of it, in plain types.
        notes: what a user should know and that failed nothing.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def to_dict(self) -> dict[str, Any]:
        """The manifest with the file's path, in plain types."""
        return {**self.manifest, "file": str(self.path), "notes": list(self.notes)}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"file": str(self.path), "size": size(self.path.stat().st_size), **self._facts()}

    def _facts(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class TrainResult(Shown):
    """A finished training run. As a path it is its best checkpoint.

    Args:
        path: the run's folder.
        manifest: summary.json: the best epoch, and metrics by split.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.path / "best.pt"

    def __fspath__(self) -> str:
        return os.fspath(self.checkpoint)

    def to_dict(self) -> dict[str, Any]:
        """The summary, in plain types."""
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
    """An ONNX file, proven against what it was made from."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16`, `int8` or `int8-cpu`."""
        return str(self.manifest["precision"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(self.manifest["classes"])

    def _facts(self) -> dict[str, str]:
        return {"precision": self.precision, "classes": ", ".join(self.classes)}


@dataclass(frozen=True)
class EngineFile(FileResult):
    """A TensorRT engine, and the graph that it was built from."""

    graph: Path = Path()

    def _facts(self) -> dict[str, str]:
        build = self.manifest.get("build", {})
        return {"built from": str(self.graph), "profiles": ", ".join(build.get("profiles", ()))}


@dataclass(frozen=True)
class BundleFile(FileResult):
    """A bundle: one archive with models, proofs, golden images and everything that serves them."""

    sha256: str = ""

    def _facts(self) -> dict[str, str]:
        return {"models": ", ".join(model["file"] for model in self.manifest["models"]), "SHA-256": self.sha256}


@dataclass(frozen=True)
class Report(Shown):
    """A measured result, in plain types.

    Args:
        values: the result, as its JSON has it.
        notes: what a user should know and that failed nothing.
    """

    values: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types."""
        return dict(self.values)

    def save(self, path: PathLike) -> Path:
        """Write the result as JSON; its path."""
        from hemf_export.files import artifacts

        target = Path(path)
        artifacts.write_json(target, self.to_dict())
        return target


class _Outcome(Protocol):
    def write(self, *, html: Path | None = None, markdown: Path | None = None) -> None: ...


@dataclass(frozen=True)
class Written(Report):
    """A report that can be a page or a summary, too."""

    _outcome: _Outcome | None = field(default=None, repr=False)

    def save(self, path: PathLike) -> Path:
        """Write the result: a page for `.html`, a summary for `.md`, all of it as JSON for any other name."""
        target = Path(path)
        if self._outcome is None or target.suffix not in (".html", ".md"):
            return super().save(target)
        if target.suffix == ".html":
            self._outcome.write(html=target)
        else:
            self._outcome.write(markdown=target)
        return target


def paths_of(files: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """One path or several, as several."""
    return (Path(files),) if isinstance(files, str | os.PathLike) else tuple(Path(file) for file in files)
