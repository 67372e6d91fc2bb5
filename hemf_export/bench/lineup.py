"""Gather what `bench` compares: the named files, or those in the folder, each with every suitable runner.

Nothing is loaded here; what can't be run is listed with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError, did_you_mean
from hemf_export.files.model_output import ModelOutput
from hemf_export.images.model_input import ModelInput
from hemf_export.models import discover, graph_source
from hemf_export.models.description import Description, Precision
from hemf_export.models.file_kinds import Kind as FileKind
from hemf_export.models.model_file import CheckpointFile, EngineFile, ModelFile, OnnxFile
from hemf_export.timing.measurement import NotRun

Kind = Literal[
    "eager", "channels-last", "amp", "compile", "compile-amp", "compile-graph", "ort-cpu", "ort-cuda", "ort-tensorrt",
    "engine", "engine-no-graph",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
TORCH_KINDS: tuple[Kind, ...] = KINDS[:6]
ORT_KINDS: tuple[Kind, ...] = KINDS[6:9]
ENGINE_KINDS: tuple[Kind, ...] = KINDS[9:]
Transfers = Literal["in", "out", "both"]
_KINDS_OF: dict[FileKind, tuple[Kind, ...]] = {"checkpoint": TORCH_KINDS, "onnx": ORT_KINDS, "engine": ENGINE_KINDS}
_ONLY_ASKED = {
    "ort-tensorrt": "builds an engine of its own, which nothing ships: timed only where it is asked for",
}
_NO_GPU = "needs an NVIDIA GPU that PyTorch can use"
_ONLY_ASKED_ON_A_CPU = {
    "amp": "on a CPU it is bfloat16, which few of them multiply: timed only where it is asked for",
    "compile": "compiles for minutes on a CPU: timed only where it is asked for",
    "compile-amp": "compiles for minutes on a CPU: timed only where it is asked for",
}


@dataclass(frozen=True)
class Entry:
    """File with its runner; serializable for a child process.

    Args:
        name: name in reports, unique in its lineup.
        kind: kind of runner.
        path: the file.
        device: "cpu" or "cuda".
        transfers: whether the copies to and from the GPU are timed too; None on a CPU.
        precision: precision of the file, or of PyTorch's products.
        description: description of the model: inputs, outputs, and how a checkpoint is read.
    """

    name: str
    kind: Kind
    path: Path
    device: str
    transfers: bool | None
    precision: Precision | Literal["bf16"]
    description: Description

    @property
    def input(self) -> ModelInput:
        """Input of the file."""
        return self.description.input

    @property
    def output(self) -> ModelOutput:
        """Output of the file."""
        return self.description.output

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for the child process that measures memory."""
        return {
            **vars(self), "path": str(self.path), "description": self.description.to_dict(),
            "factory": self.description.reading.factory,  # given by the user, so that no description has it
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Entry:
        """Build an entry from the plain types of `to_dict`."""
        given = dict(values)
        described, factory = Description.from_dict(given["description"]), given.pop("factory")
        description = dataclasses.replace(described, reading=dataclasses.replace(described.reading, factory=factory))
        return cls(**{**given, "path": Path(given["path"]), "description": description})


@dataclass(frozen=True)
class Lineup:
    """Everything to compare, the reference first.

    Args:
        entries: entries in the order of the report.
        not_run: what can't run on this machine, or was left out.
        graphs: our ONNX files among the files.
        input: common form of the images for all entries: whole images, if a file resizes them itself.
        batch: fixed batch of the files; None if dynamic.
        checkpoint_sha256: SHA-256 of the checkpoint that all were made from.
        notes: remarks for the user.
    """

    entries: tuple[Entry, ...]
    not_run: tuple[NotRun, ...]
    graphs: tuple[OnnxFile, ...]
    input: ModelInput
    batch: int | None
    checkpoint_sha256: str
    notes: tuple[str, ...]


def parse_kinds(text: str | None) -> tuple[Kind, ...] | None:
    """Parse kinds of runners, such as `eager,ort-cpu`; None for the usual ones.

    Raises:
        UsageError: an unknown kind.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KINDS:
            raise UsageError(f"`runners` has no {name!r}.", did_you_mean(name, KINDS))
    return tuple(kind for kind in KINDS if kind in names)


def gather(
    files: Sequence[Path],
    folder: Path,
    *,
    kinds: tuple[Kind, ...] | None,
    transfers: Transfers,
    gpu: bool,
    reading: Reading = PLAIN,
) -> Lineup:
    """Gather the entries to compare, and what can't be run.

    Args:
        files: a checkpoint, ONNX files and engines; empty for those in `folder`. A file named twice runs twice.
        folder: folder to search for files, and for the checkpoint by its hash.
        kinds: kinds of runners; None for the usual ones here.
        transfers: whether copies to and from a GPU are timed.
        gpu: whether there is a GPU that PyTorch can use.
        reading: how the checkpoint is read; by default as recorded in the other files.

    Raises:
        BadInputError: nothing to compare, or files of different models.
    """
    checkpoints, exported, notes = _sorted_out(files, folder)
    ours = tuple(file for file in exported if isinstance(file, OnnxFile) and file.is_ours)
    hashes = {file.description.checkpoint_sha256 for file in exported}
    hashes |= {file.sha256 for file in checkpoints}
    if len(hashes) > 1:
        names = ", ".join(file.name for file in (*checkpoints, *exported))
        raise BadInputError(
            f"These are made from {len(hashes)} different checkpoints: {names}.", "Name files of one model."
        )
    if not checkpoints:
        near = sorted({folder, *(file.path.parent for file in exported)})
        origin = next(filter(None, (discover.origin_of(place, next(iter(hashes))) for place in near)), None)
        if origin is None:
            notes.append("The checkpoint these files were made from is not here: PyTorch is not timed.")
        elif isinstance(origin, CheckpointFile):
            checkpoints = [origin]
        elif isinstance(origin, OnnxFile) and all(file.kind == "engine" or file in ours for file in exported):
            exported.append(graph_source.origin(origin, [file.description for file in exported]))
    recorded = (file.description.reading for file in exported)
    reading = reading.or_recorded(next((one for one in recorded if one != PLAIN), PLAIN))
    checkpoints = [file.read_as(reading=reading) for file in checkpoints]
    if exported and kinds is not None and not any(kind in TORCH_KINDS for kind in kinds):
        checkpoints = []  # not requested, so not loaded
    notes += [note for file in checkpoints for note in file.load().notes]
    # float32 first: it is the reference if the checkpoint is missing.
    exported.sort(key=lambda file: (file.kind == "engine", file.description.precision != "fp32"))
    entries: list[Entry] = []
    not_run: list[NotRun] = []
    for file in (*checkpoints, *exported):
        for kind in _KINDS_OF[file.kind]:
            if kinds is not None and kind not in kinds:
                continue
            if reason := _refusal(kind, file, gpu=gpu, asked=kinds is not None):
                not_run.append(NotRun(f"{kind}, {file.name}", reason))
                continue
            entries.extend(_entries(file, kind, transfers, gpu=gpu))
    if gpu is False and any(entry.precision in ("fp16", "int8") for entry in entries):
        notes.append("float16 is emulated on this CPU: the latency of FP16 and INT8 here says nothing about a GPU.")
    batches = {file.description.batch for file in exported} - {None}
    if len(batches) > 1:
        raise BadInputError(
            f"The files have different fixed batches: {', '.join(map(str, sorted(filter(None, batches))))}."
        )
    sources = {file.description.source_size for file in exported} - {None}
    if len(sources) > 1:
        raise BadInputError(
            f"The files take images of different sizes: {', '.join(sorted(map(str, sources)))}.",
            "Name files of one `source_size`.",
        )
    source = next(iter(sources), None)
    preprocess = (exported or checkpoints)[0].description.preprocess
    return Lineup(
        _numbered(entries), tuple(not_run), ours, ModelInput(preprocess, source is not None, source),
        next(iter(batches), None), next(iter(hashes)), tuple(notes),
    )  # fmt: skip


def _sorted_out(
    files: Sequence[Path], folder: Path
) -> tuple[list[CheckpointFile], list[OnnxFile | EngineFile], list[str]]:
    """Split the files into checkpoints, and ONNX files and engines; add remarks on files that aren't ours."""
    opened: list[ModelFile] = [ModelFile.open(path) for path in files]
    if not opened:
        opened += discover.onnx_files(folder)
        opened += [file for file in EngineFile.all_in(folder) if artifacts.manifest_path(file.path).is_file()]
        if not opened:
            raise BadInputError(
                f"No ONNX file of ours lies in {folder.resolve()}.", "Make one: `export_onnx(CKPT)`, or name files."
            )
    exported: list[OnnxFile | EngineFile] = []
    others: list[OnnxFile] = []
    for file in opened:
        if isinstance(file, OnnxFile) and file.is_ours:
            file.read()  # checks the file
            exported.append(file)
        elif isinstance(file, OnnxFile):
            others.append(file)
        elif isinstance(file, EngineFile):
            exported.append(file)
    notes: list[str] = []
    for other in others:
        source = graph_source.read(other.path)
        own = next((file for file in exported if file.description.checkpoint_sha256 == source.sha256), None)
        notes += source.notes if own is None else ()
        exported.append(source.file if own is None else graph_source.origin(source.file, [own.description]))
    return [file for file in opened if isinstance(file, CheckpointFile)], exported, notes


def _refusal(kind: Kind, file: ModelFile, *, gpu: bool, asked: bool) -> str | None:
    """Return why a kind of runner isn't run; None if it is."""
    if kind == "compile-graph" or kind in ("ort-cuda", "ort-tensorrt", *ENGINE_KINDS):
        if not gpu:
            return _NO_GPU
        if file.description.precision == "int8-cpu":
            return "the file is for a CPU"
    if asked:
        return None
    return _ONLY_ASKED.get(kind) or (None if gpu else _ONLY_ASKED_ON_A_CPU.get(kind))


def _entries(file: ModelFile, kind: Kind, transfers: Transfers, *, gpu: bool) -> list[Entry]:
    device = "cuda" if gpu and kind != "ort-cpu" else "cpu"
    precision: Precision | Literal["bf16"] = file.description.precision
    if kind in ("amp", "compile-amp", "compile-graph"):
        precision = "fp16" if device == "cuda" else "bf16"
    crossing: dict[Transfers, tuple[bool, ...]] = {"in": (True,), "out": (False,), "both": (True, False)}
    entries = []
    for inside in (None,) if device == "cpu" else crossing[transfers]:
        name = f"{kind}, {file.name}" + (", on the GPU" if inside is False else "")
        entries.append(Entry(name, kind, file.path, device, inside, precision, file.description))
    return entries


def _numbered(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Number repeated names."""
    counts: dict[str, int] = {}
    named = []
    for entry in entries:
        counts[entry.name] = number = counts.get(entry.name, 0) + 1
        named.append(entry if number == 1 else Entry(**{**vars(entry), "name": f"{entry.name} ({number})"}))
    return tuple(named)
