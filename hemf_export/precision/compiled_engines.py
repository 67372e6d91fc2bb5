"""Find the engines built from a graph, and read their kernels, by their manifests.

None is loaded, and no GPU is needed. Engines of other graphs, those that don't match their manifests, and those built
before kernels were recorded are ignored.
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
        path: the engine.
        census: its kernels.
        manifest: its manifest.
    """

    path: Path
    census: Census
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a report, without the list of kernels."""
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
    """Read an engine's kernels from its manifest; None without them, or where the manifest doesn't match."""
    try:
        manifest = artifacts.read_manifest(path) or {}
        census = census_text.of_manifest(manifest)
        if (precision := manifest.get("compiled_precision")) is not None:
            compiled_precision.require_plain(precision)
    except HemfError:
        return None
    return None if census is None else Compiled(path, census, manifest)


def of_graph(graph: Path, sha256: str, named: Iterable[Path] = ()) -> list[Compiled]:
    """Find the engines built from a graph: among the named ones, then in the graph's folder.

    Args:
        graph: an ONNX file.
        sha256: its hash.
        named: engines anywhere.
    """
    paths = dict.fromkeys((*named, *(file.path for file in EngineFile.all_in(graph.parent))))
    engines = (read(path) for path in paths)
    return [one for one in engines if one is not None and one.manifest.get("parent_sha256") == sha256]


def for_target(graph: Path, named: Iterable[Path], target: Target) -> Compiled | None:
    """Find the first engine built from `graph` for `target`'s compute capability with all sizes known."""
    for one in of_graph(graph, artifacts.sha256(graph), named):
        census = one.census
        if census.sm == target.sm and census.moved_bytes is not None and census.multiply_adds is not None:
            return one
    return None
