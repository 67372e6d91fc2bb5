"""Run a whole verification: what files compute and store, a comparison with an earlier one, and the reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models import graph_source
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.verification import locate, page, stored_numbers, text, verification
from hemf_export.verification.verification import Request, Verification


@dataclass(frozen=True)
class Scrutiny:
    """Plan for comparing what is inside the candidates with the float32 files that they were made from.

    The numbers that they store are always compared, their nodes on request. An engine can't be opened like that, but
    the ONNX file that it was built from can.

    Args:
        parents: the float32 file of each candidate that has one.
        notes: why the other candidates are left out.
        nodes: compare nodes as well.
    """

    parents: dict[Path, Path]
    notes: tuple[str, ...]
    nodes: bool

    def add_to(self, result: Verification, progress: Progress = SILENT) -> Verification:
        """Add the comparison of stored numbers, and of nodes where planned, to the verification.

        Raises:
            BadInputError: a float32 file can't be read as one, or shares nothing with the candidate.
        """
        files = {item.subject.path: item for item in result.candidates if item.subject.path in self.parents}
        numbers = {
            path: stored_numbers.compare(result, item, self.parents[path], progress) for path, item in files.items()
        }
        result = stored_numbers.add(result, numbers)
        if not self.nodes:
            return result
        located = {
            path: locate.locate(result, item, self.parents[path], progress, numbers[path].damaged)
            for path, item in files.items()
        }
        return locate.add(result, located)


@dataclass(frozen=True)
class Outcome:
    """A verification and its report.

    Args:
        verification: with the comparison of what the files store.
        values: the report in plain types, from which every other form is made.
        notes: remarks for the user.
    """

    verification: Verification
    values: dict[str, Any]
    notes: tuple[str, ...]

    def write(self, *, html: Path | None = None, markdown: Path | None = None, thumbnails: bool = True) -> None:
        """Write the report in these forms, each atomically.

        Args:
            html: where the page goes; None for no page.
            markdown: where the summary for a review goes; None for no summary.
            thumbnails: put small pictures of the changed images into the page.

        Raises:
            BadInputError: a file can't be written.
        """
        if html is not None:
            pictures = page.thumbnails(self.verification) if thumbnails else {}
            artifacts.write_bytes(html, page.html(self.values, pictures).encode())
        if markdown is not None:
            artifacts.write_bytes(markdown, text.markdown(self.values).encode())

    def require(self, hint: str | None = None) -> None:
        """Raise CheckFailedError if a bound is missed, or a figure is worse than in the baseline."""
        if missed := text.missed(self.values, parameters=True):
            bounds = f"{len(missed)} bound{'s' * (len(missed) != 1)} missed"
            raise CheckFailedError(f"{bounds}:\n  " + "\n  ".join(missed), hint, self.values)


def run(request: Request, *, float32: Path | None = None, locate: bool = False, progress: Progress = SILENT) -> Outcome:
    """Run the files on all images, compare what they store, and compare with an earlier verification if there is one.

    Args:
        request: files, images and bounds.
        float32: the file that the candidates were converted from; None for the one that their manifests name, in their
            folder.
        locate: compare node by node, and find the first that stands out.
        progress: receives the steps.

    Raises:
        BadInputError: a file or the images can't be used, or the files don't belong together.
        MissingCapabilityError: an engine can't run here.
    """
    scrutiny = plan_scrutiny(request.candidates, float32, nodes=locate)
    result = scrutiny.add_to(verification.verify(request, progress), progress)
    values = result.to_dict()
    if request.earlier is not None:
        values["baseline"] = request.earlier.compare(values)
        values["passed"] = values["passed"] and values["baseline"]["passed"]
    subjects = result.reference, *(candidate.subject for candidate in result.candidates)
    model_notes = [note for subject in subjects for note in subject.model.notes]
    return Outcome(result, values, (*text.doubts(values), *scrutiny.notes, *result.notes, *model_notes))


def plan_scrutiny(candidates: Sequence[Path], float32: Path | None = None, *, nodes: bool = False) -> Scrutiny:
    """Find the float32 file of each candidate. One that is float32 itself has none, unless `float32` names one.

    Args:
        candidates: files of any kind.
        float32: the file that all were converted from; None for the parent that a candidate's manifest names, in its
            folder.
        nodes: compare nodes as well.

    Raises:
        BadInputError: `float32` isn't a float32 file that they were made from, or nodes are to be compared and no
            candidate has such a file.
    """
    files = [ModelFile.open(path) for path in candidates]
    if float32 is not None:
        exported = (file.stored_description for file in files if file.kind == "onnx")
        graph_source.read_origin(float32, [*filter(None, exported)])
    parents: dict[Path, Path] = {}
    notes: list[str] = []
    for file in files:
        path, manifest = file.path, file.manifest or {}
        if file.kind != "onnx":
            notes += [f"{path.name} is not an ONNX file: `locate` can't look into it."] if nodes else []
        elif "fine_tuning" in manifest:
            notes.append(
                f"What {path.name} stores is not compared: it was fine-tuned, and no float32 file has its weights."
            )
        elif float32 is not None and not (path.exists() and float32.exists() and path.samefile(float32)):
            parents[path] = float32
        elif parent := _parent_of(file):
            parents[path] = parent
        elif manifest.get("precision") != "fp32":
            notes.append(
                f"What {path.name} stores is not compared: no float32 file that it was made from lies beside it. "
                "Name it with `float32`."
            )
    if nodes and not parents:
        raise BadInputError("`locate` has nothing to compare.", " ".join(notes) or "The files are float32 themselves.")
    return Scrutiny(parents, tuple(notes), nodes)


def _parent_of(file: ModelFile) -> Path | None:
    manifest, folder = file.manifest or {}, file.path.parent
    parent_sha256 = manifest.get("parent_sha256")
    if not isinstance(parent_sha256, str):
        return None
    named = folder / Path(str(manifest.get("parent"))).name  # any folder that a manifest names is ignored
    others = [other for other in OnnxFile.all_in(folder) if other.path not in (named, file.path)]
    first = [OnnxFile.open(named)] if named.is_file() else []
    return next((other.path for other in (*first, *others) if other.content_sha256 == parent_sha256), None)
