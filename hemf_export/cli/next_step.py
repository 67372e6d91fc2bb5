"""The command that a user would run next: the first step from a checkpoint to its bundle that isn't done yet.

    train → onnx → trt → verify → bench → bundle → self-test

Files that lie beside the one in hand count where they were made from it, by the hashes in their manifests. What leaves
no file, a verification or a benchmark, counts where it has just been run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hemf_export.bundles.archive import SUFFIX
from hemf_export.cli import console
from hemf_export.files.errors import BadInputError
from hemf_export.models import discover
from hemf_export.models.model_file import CheckpointFile, EngineFile, ModelFile
from hemf_export.models.onnx_file import OnnxFile

Words = tuple[str | Path, ...]
Done = Literal["trt", "verify", "bench"]


def show(
    file: Path, done: Done | None = None, *, target: str | None = None, images: Path | None = None,
    report: Path | None = None,
) -> None:  # fmt: skip
    """Print the command as the last line of a result; see `after`."""
    try:
        words = after(file, done, target=target, images=images, report=report)
    except BadInputError:
        return  # what came of the command stands, whatever else lies in the folder
    console.next_command(*words)


def after(
    file: Path, done: Done | None = None, *, target: str | None = None, images: Path | None = None,
    report: Path | None = None,
) -> Words:  # fmt: skip
    """Find the next command.

    Args:
        file: a checkpoint, or an ONNX file or an engine of ours.
        done: the command that was just run on it, of those whose result may lie anywhere or nowhere.
        target: that an engine is wanted for; None for any.
        images: the user's, where some were named.
        report: of the benchmark that was just run, where it was written.

    Raises:
        BadInputError: the file is damaged, or not ours.
    """
    opened = ModelFile.open(file)
    if isinstance(opened, CheckpointFile):
        exported = next(_float32_files(opened), None)
        if exported is None:
            return "hemf-export onnx", file
        opened = exported
    line = _line(opened, target)
    if done != "trt" and line.engine is None and line.precision != "int8-cpu":
        build_for = () if target in (None, "t4") else ("--target", target)
        return "hemf-export trt", line.files[-1], *(("--fp16",) if line.graph is None else ()), *build_for
    if done in (None, "trt"):
        return "hemf-export verify", *line.files, "--data", images or "DATA"
    if done == "verify":
        return "hemf-export bench", *line.files
    return _bundle(line, report)


@dataclass(frozen=True)
class _Line:
    """What was made from one float32 file, as far as it lies in one folder.

    Args:
        float32: the file.
        graph: the FP16 or INT8 file made from it.
        engine: built from the graph, or from the float32 file where there is none.
    """

    float32: OnnxFile | None
    graph: OnnxFile | None
    engine: EngineFile | None

    @property
    def files(self) -> list[Path]:
        """The ONNX files; the engine where none of them is here."""
        found = [file.path for file in (self.float32, self.graph) if file is not None]
        return found or ([] if self.engine is None else [self.engine.path])

    @property
    def precision(self) -> str | None:
        """The precision of the graph, if there is one."""
        return None if self.graph is None else self.graph.precision


def _line(file: ModelFile, target: str | None) -> _Line:
    folder = file.path.parent
    if isinstance(file, EngineFile):
        parent = _with_hash(folder, _parent(file))
        if parent is None or parent.precision == "fp32":
            return _Line(parent, None, file)
        return _Line(_with_hash(folder, _parent(parent)), parent, file)
    assert isinstance(file, OnnxFile)
    engine = next(_engines(file, target), None)
    if file.precision != "fp32":
        return _Line(_with_hash(folder, _parent(file)), file, engine)
    if engine is not None:
        return _Line(file, None, engine)
    graphs = [graph for graph in discover.onnx_files(folder) if _parent(graph) == file.sha256]
    lines = [_Line(file, graph, next(_engines(graph, target), None)) for graph in graphs]
    built = [line for line in lines if line.engine is not None]
    to_build = [line for line in lines if line.precision != "int8-cpu"]
    return next(iter([*built, *to_build]), _Line(file, None, None))


def _bundle(line: _Line, report: Path | None) -> Words:
    # As `ship` does: the engine with its graph, which a benchmark without a GPU has timed in its place.
    packed = line.files if line.engine is None else list(dict.fromkeys([line.files[-1], line.engine.path]))
    output = line.files[0].with_name(ModelFile.open(line.files[0]).stem + SUFFIX)
    if output.exists():
        return "hemf-export self-test", output
    timed = () if report is None else ("--bench", report)
    served = () if find_spec("tritonclient") else ("--no-triton",)
    return "hemf-export bundle", *packed, "-o", output, *timed, *served


def _float32_files(checkpoint: CheckpointFile) -> Iterator[OnnxFile]:
    for file in discover.onnx_files(checkpoint.path.parent):
        if file.precision == "fp32" and file.description.checkpoint_sha256 == checkpoint.sha256:
            yield file


def _engines(graph: OnnxFile, target: str | None) -> Iterator[EngineFile]:
    for engine in EngineFile.all_in(graph.path.parent):
        if _parent(engine) == graph.sha256 and target in (None, (engine.manifest or {}).get("target")):
            yield engine


def _with_hash(folder: Path, sha256: str | None) -> OnnxFile | None:
    return next((file for file in discover.onnx_files(folder) if file.sha256 == sha256), None)


def _parent(file: ModelFile) -> str | None:
    """The hash of what a file was made from, by its manifest; None where nothing tells."""
    try:
        return (file.manifest or {}).get("parent_sha256")
    except BadInputError:  # damaged, or of another file: it counts for nothing here
        return None
