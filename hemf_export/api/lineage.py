"""Files of one folder that were made from one checkpoint: ONNX files, engine, bundle.

Files belong together where the hashes in their manifests say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hemf_export.bundles.archive import SUFFIX
from hemf_export.files.errors import BadInputError
from hemf_export.models import discover, file_kinds
from hemf_export.models.model_file import CheckpointFile, EngineFile, ModelFile, OnnxFile


@dataclass(frozen=True)
class Lineage:
    """Files that were made from one float32 ONNX file.

    Args:
        float32: the file.
        graph: the FP16 or INT8 file made from it.
        engine: built from the graph, or from the float32 file where there is none.
    """

    float32: OnnxFile | None
    graph: OnnxFile | None
    engine: EngineFile | None

    @property
    def onnx(self) -> list[Path]:
        """The ONNX files; the engine where none of them is here."""
        files = [file.path for file in (self.float32, self.graph) if file is not None]
        return files or ([] if self.engine is None else [self.engine.path])

    @property
    def precision(self) -> str | None:
        """Precision of the graph; None where there is none."""
        return None if self.graph is None else self.graph.description.precision

    @property
    def packed(self) -> list[Path]:
        """Files for a bundle, as `ship` packs them: the engine with its graph, which is timed where no GPU is."""
        return self.onnx if self.engine is None else list(dict.fromkeys([self.onnx[-1], self.engine.path]))

    @property
    def bundle(self) -> Path:
        """Path of their bundle."""
        first = self.onnx[0]
        return first.with_name(file_kinds.stem(first) + SUFFIX)


def lineage_of(path: Path, target: str | None = None) -> Lineage | None:
    """Find the files that belong together with one of them; None for a checkpoint without its float32 ONNX file.

    Args:
        path: a checkpoint, or an ONNX file or an engine of ours.
        target: target of the engine; None for any.

    Raises:
        BadInputError: the file is damaged, or not ours.
    """
    file = ModelFile.open(path)
    if isinstance(file, CheckpointFile):
        exported = next(_float32_files(file), None)
        return None if exported is None else _of_onnx(exported, target)
    if isinstance(file, EngineFile):
        return _of_engine(file)
    assert isinstance(file, OnnxFile)
    return _of_onnx(file, target)


def _of_engine(file: EngineFile) -> Lineage:
    folder = file.path.parent
    parent = _with_hash(folder, _parent(file))
    if parent is None or parent.description.precision == "fp32":
        return Lineage(parent, None, file)
    return Lineage(_with_hash(folder, _parent(parent)), parent, file)


def _of_onnx(file: OnnxFile, target: str | None) -> Lineage:
    folder, engine = file.path.parent, next(_engines(file, target), None)
    if file.description.precision != "fp32":
        return Lineage(_with_hash(folder, _parent(file)), file, engine)
    if engine is not None:
        return Lineage(file, None, engine)
    graphs = [graph for graph in discover.onnx_files(folder) if _parent(graph) == file.sha256]
    candidates = [Lineage(file, graph, next(_engines(graph, target), None)) for graph in graphs]
    built = [each for each in candidates if each.engine is not None]
    to_build = [each for each in candidates if each.precision != "int8-cpu"]
    return next(iter([*built, *to_build]), Lineage(file, None, None))


def _float32_files(checkpoint: CheckpointFile) -> Iterator[OnnxFile]:
    for file in discover.onnx_files(checkpoint.path.parent):
        if file.description.precision == "fp32" and file.description.checkpoint_sha256 == checkpoint.sha256:
            yield file


def _engines(graph: OnnxFile, target: str | None) -> Iterator[EngineFile]:
    for engine in EngineFile.all_in(graph.path.parent):
        if _parent(engine) == graph.sha256 and target in (None, (engine.manifest or {}).get("target")):
            yield engine


def _with_hash(folder: Path, sha256: str | None) -> OnnxFile | None:
    return next((file for file in discover.onnx_files(folder) if file.sha256 == sha256), None)


def _parent(file: ModelFile) -> str | None:
    """Hash of the file that a file was made from, by its manifest; None if unknown."""
    try:
        return (file.manifest or {}).get("parent_sha256")
    except BadInputError:  # damaged, or of another file: it counts for nothing here
        return None
