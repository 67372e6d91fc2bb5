"""Engines that were made of a graph, found by their manifests, and what those tell of their kernels.

None is loaded, and no GPU is needed. Engines of other graphs, those that aren't what their manifests describe, and
those built before kernels were counted are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.engines.census import Census
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts
from hemf_export.files.errors import HemfError
from hemf_export.models.model_file import EngineFile
from hemf_export.pages import census_text
from hemf_export.precision import compiled_precision


@dataclass(frozen=True)
class Compiled:
    """An engine and its kernels.

    Args:
        path: of the engine.
        census: of its kernels.
        manifest: of the engine.
    """

    path: Path
    census: Census
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a report: what is told of an engine without its list of kernels."""
        manifest = self.manifest
        return {
            "file": self.path.name,
            "sha256": manifest.get("sha256"),
            "target": manifest.get("target"),
            "precision": manifest.get("precision"),
            "census": self.census.summary(),
            "compiled_precision": manifest.get("compiled_precision"),
        }


def read(path: Path) -> Compiled | None:
    """An engine's kernels by its manifest; None where it has none, or isn't what it describes."""
    try:
        manifest = artifacts.read_manifest(path) or {}
        census = census_text.of_manifest(manifest)
        if (precision := manifest.get("compiled_precision")) is not None:
            compiled_precision.require_plain(precision)
    except HemfError:
        return None
    return None if census is None else Compiled(path, census, manifest)


def of_graph(graph: Path, sha256: str, named: Iterable[Path] = ()) -> list[Compiled]:
    """The engines made of a graph: those among the named ones, then those in the graph's folder.

    Args:
        graph: an ONNX file.
        sha256: of it.
        named: engines that may be anywhere.
    """
    paths = dict.fromkeys((*named, *(file.path for file in EngineFile.all_in(graph.parent))))
    found = (read(path) for path in paths)
    return [one for one in found if one is not None and one.manifest.get("parent_sha256") == sha256]


def for_target(graph: Path, named: Iterable[Path], target: Target) -> Compiled | None:
    """The first engine made of `graph` for `target`'s compute capability whose sizes are all known."""
    for one in of_graph(graph, artifacts.sha256(graph), named):
        census = one.census
        if census.sm == target.sm and census.moved_bytes is not None and census.multiply_adds is not None:
            return one
    return None
