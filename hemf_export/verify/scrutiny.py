"""Looking into the candidates of a verification, beside the float32 files that they were made from.

What they store is always compared; node by node where it is asked for. An engine can't be looked into: the ONNX file
that it was built from can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hemf import artifacts
from hemf.errors import BadInputError
from hemf_export import graph_source, model_kind, onnx_file
from hemf_export.verify import locate, stored_numbers
from hemf_export.verify.verified import Verification


@dataclass(frozen=True)
class Scrutiny:
    """What can be looked into, and how far.

    Args:
        parents: the float32 file of each candidate that has one.
        notes: why others can't be looked into.
        nodes: whether nodes are compared too.
    """

    parents: dict[Path, Path]
    notes: tuple[str, ...]
    nodes: bool

    def add_to(
        self, found: Verification, progress: Callable[[str, int, int], None] = lambda phase, done, total: None
    ) -> Verification:
        """The verification with what the files store, and where they leave the float32 ones.

        Raises:
            BadInputError: a float32 file isn't one, or nothing of it is in the candidate.
        """
        files = {item.subject.path: item for item in found.candidates if item.subject.path in self.parents}
        numbers = {
            path: stored_numbers.compare(found, item, self.parents[path], progress) for path, item in files.items()
        }
        found = stored_numbers.add(found, numbers)
        if not self.nodes:
            return found
        located = {
            path: locate.locate(found, item, self.parents[path], progress, numbers[path].damaged)
            for path, item in files.items()
        }
        return locate.add(found, located)


def plan(candidates: Sequence[Path], given: Path | None = None, *, nodes: bool = False) -> Scrutiny:
    """Find the float32 files. A candidate that is float32 itself has none, but for one that is `given`.

    Args:
        candidates: files.
        given: the float32 file; None for the parent that a candidate's manifest names, in its folder.
        nodes: compare nodes too.

    Raises:
        BadInputError: `given` isn't a float32 file that they were made from; nodes are to be compared, and no candidate
            has such a file.
    """
    if given is not None:
        graph_source.read_origin(given, [*filter(None, map(onnx_file.glance, candidates))])
    parents: dict[Path, Path] = {}
    notes: list[str] = []
    for path in candidates:
        if model_kind.kind_of(path) != "onnx":
            notes += [f"{path.name} is not an ONNX file: --locate can't look into it."] if nodes else []
        elif "fine_tuning" in (artifacts.read_manifest(path) or {}):
            notes.append(
                f"What {path.name} stores is not compared: it was fine-tuned, and no float32 file has its weights."
            )
        elif given is not None and not (path.exists() and given.exists() and path.samefile(given)):
            parents[path] = given
        elif parent := _parent_of(path):
            parents[path] = parent
        elif (artifacts.read_manifest(path) or {}).get("precision") != "fp32":
            text = f"What {path.name} stores is not compared: no float32 file that it was made from lies beside it."
            notes.append(f"{text} Name it with --float32.")
    if nodes and not parents:
        raise BadInputError("--locate has nothing to compare.", " ".join(notes) or "The files are float32 themselves.")
    return Scrutiny(parents, tuple(notes), nodes)


def _parent_of(path: Path) -> Path | None:
    manifest = artifacts.read_manifest(path) or {}
    wanted = manifest.get("parent_sha256")
    if not isinstance(wanted, str):
        return None
    named = path.parent / Path(str(manifest.get("parent"))).name  # whatever folder a manifest may name
    places = [named, *(other for other in model_kind.found_in(path.parent, "onnx") if other not in (named, path))]
    return next((place for place in places if place.is_file() and onnx_file.sha256(place) == wanted), None)
