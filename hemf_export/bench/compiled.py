"""Engines whose kernels a roofline may count: made of a graph, for the compute capability that is asked about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engines.census import Census
from engines.targets import Target
from hemf import artifacts
from hemf.errors import HemfError
from hemf_export import census_text


@dataclass(frozen=True)
class Compiled:
    """An engine and its kernels.

    Args:
        name: of its file.
        census: with all sizes.
    """

    name: str
    census: Census


def find(graph: Path, named: Iterable[Path], target: Target) -> Compiled | None:
    """The engine made of `graph` for `target`'s compute capability: one that is named, or the first beside the graph.

    Engines of other graphs or GPUs, those that aren't what their manifests describe, and those built before kernels
    were counted are passed over. None is loaded: manifests tell all.
    """
    digest = artifacts.sha256(graph)
    for path in dict.fromkeys((*named, *sorted(graph.parent.glob("*.engine")))):
        try:
            manifest = artifacts.read_manifest(path) or {}
            if manifest.get("parent_sha256") != digest or manifest.get("compute_capability") != target.sm:
                continue
            census = census_text.of_manifest(manifest)
        except HemfError:
            continue
        if census is not None and census.moved_bytes is not None and census.multiply_adds is not None:
            return Compiled(path.name, census)
    return None
