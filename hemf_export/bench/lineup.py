"""What `bench` compares: the files named, or what lies in the folder, each by every runner that suits it.

Nothing is loaded here; what can't take part is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemf import artifacts, checkpoint
from hemf.errors import BadInputError, UsageError, did_you_mean
from hemf.images import Preprocess
from hemf.model_input import ModelInput
from hemf.model_output import OutputType
from hemf_export import discover, onnx_file
from hemf_export.bench.entry import ENGINE_KINDS, KINDS, ORT_KINDS, TORCH_KINDS, Entry, Kind
from hemf_export.bench.measurement import NotRun
from hemf_export.description import Description, InputType, Precision

Transfers = Literal["in", "out", "both"]

_NO_GPU = "needs an NVIDIA GPU that PyTorch can use"
_ONLY_ASKED = {
    "amp": "on a CPU it is bfloat16, which few of them multiply: name it in --runners to time it",
    "compile": "compiles for minutes on a CPU: name it in --runners to time it",
    "compile-amp": "compiles for minutes on a CPU: name it in --runners to time it",
}


@dataclass(frozen=True)
class Lineup:
    """Everything that takes part, the reference first.

    Args:
        entries: in the order of the report.
        not_run: what suits no part of this machine, or was left out.
        graphs: ONNX files, with what they say of themselves.
        input: what is kept of images for all of them: whole ones, where a file resizes them itself.
        batch: the fixed batch of their files, or None.
        checkpoint_sha256: what all were made from.
        notes: what a user should know.
    """

    entries: tuple[Entry, ...]
    not_run: tuple[NotRun, ...]
    graphs: tuple[tuple[Path, Description], ...]
    input: ModelInput
    batch: int | None
    checkpoint_sha256: str
    notes: tuple[str, ...]


def parse_kinds(text: str | None) -> tuple[Kind, ...] | None:
    """`eager,ort-cpu` → kinds; None for those that usually make sense.

    Raises:
        UsageError: an unknown one.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KINDS:
            raise UsageError(f"--runners has no {name!r}.", did_you_mean(name, KINDS))
    return tuple(kind for kind in KINDS if kind in names)


def gather(
    files: Sequence[Path], folder: Path, *, kinds: tuple[Kind, ...] | None, transfers: Transfers, gpu: bool
) -> Lineup:
    """Look at what is to be compared.

    Args:
        files: a checkpoint, ONNX files and engines; empty for what lies in `folder`. One named twice runs twice.
        folder: looked through for the files, and for the checkpoint by its hash.
        kinds: of runners; None for those that usually make sense here.
        transfers: of what runs on a GPU.
        gpu: whether there is one that PyTorch can use.

    Raises:
        BadInputError: nothing to compare, or files of different models.
    """
    checkpoints, described = _sorted_out(files, folder)
    hashes = {description.checkpoint_sha256 for _, description in described}
    hashes |= {artifacts.sha256(path) for path in checkpoints if path.is_file()}
    if len(hashes) > 1 or len(checkpoints) > 1:
        names = ", ".join(path.name for path in (*checkpoints, *(path for path, _ in described)))
        raise BadInputError(
            f"These are made from {len(hashes)} different checkpoints: {names}.", "Name files of one model."
        )
    notes: list[str] = []
    if not checkpoints:
        near = {folder, *(path.parent for path, _ in described)}
        found = [path for place in sorted(near) if (path := discover.checkpoint_of(place, next(iter(hashes))))]
        checkpoints = found[:1]
        if not found:
            notes.append("The checkpoint these files were made from is not here: PyTorch is not timed.")
    preprocess = described[0][1].preprocess if described else checkpoint.load(checkpoints[0]).preprocess
    candidates: list[tuple[Path, Kind, Description | None]]
    candidates = [(path, kind, None) for path in checkpoints for kind in TORCH_KINDS]
    # float32 first: it is the reference where the checkpoint is not here.
    for path, description in sorted(described, key=lambda item: (_is_engine(item[0]), item[1].precision != "fp32")):
        of_file = ENGINE_KINDS if _is_engine(path) else ORT_KINDS
        candidates.extend((path, kind, description) for kind in of_file)
    entries: list[Entry] = []
    not_run: list[NotRun] = []
    for path, kind, told in candidates:
        if kinds is not None and kind not in kinds:
            continue
        if reason := _refusal(kind, told, gpu=gpu, asked=kinds is not None):
            not_run.append(NotRun(f"{kind}, {path.name}", reason))
            continue
        entries.extend(_entries(path, kind, told, preprocess, transfers, gpu=gpu))
    if gpu is False and any(entry.precision in ("fp16", "int8") for entry in entries):
        notes.append("float16 is emulated on this CPU: the latency of FP16 and INT8 here says nothing about a GPU.")
    batches = {description.batch for _, description in described} - {None}
    if len(batches) > 1:
        raise BadInputError(
            f"The files have different fixed batches: {', '.join(map(str, sorted(filter(None, batches))))}."
        )
    sources = {description.source_size for _, description in described} - {None}
    if len(sources) > 1:
        raise BadInputError(
            f"The files take images of different sizes: {', '.join(sorted(map(str, sources)))}.",
            "Name files of one --source-size.",
        )
    source = next(iter(sources), None)
    graphs = tuple((path, description) for path, description in described if not _is_engine(path))
    return Lineup(
        _one_of_a_kind(entries), tuple(not_run), graphs, ModelInput(preprocess, source is not None, source),
        next(iter(batches), None), next(iter(hashes)), tuple(notes),
    )  # fmt: skip


def _sorted_out(files: Sequence[Path], folder: Path) -> tuple[list[Path], list[tuple[Path, Description]]]:
    """Checkpoints; ONNX files and engines with their descriptions."""
    known = (*discover.CHECKPOINT_SUFFIXES, ".onnx", *discover.ENGINE_SUFFIXES)
    for path in files:
        if path.suffix.lower() not in known:
            raise BadInputError(
                f"{path} is not a checkpoint, an ONNX file or an engine.", f"Known by their names: {', '.join(known)}."
            )
    if files:
        graphs = [path for path in files if path.suffix.lower() not in discover.CHECKPOINT_SUFFIXES]
        checkpoints = [path for path in files if path.suffix.lower() in discover.CHECKPOINT_SUFFIXES]
        return checkpoints, [(path, describe(path)) for path in graphs]
    found = [path for path, _ in discover.onnx_files(folder)]
    found += [path for path in sorted(folder.iterdir()) if _is_engine(path) and artifacts.manifest_path(path).is_file()]
    if not found:
        raise BadInputError(
            f"No ONNX file of ours lies in {folder.resolve()}.", "Make one: hemf-export onnx CKPT, or name files."
        )
    return [], [(path, describe(path)) for path in found]


def describe(path: Path) -> Description:
    """What an ONNX file says of itself, or an engine's manifest of it.

    Raises:
        BadInputError: it isn't one, or not what it describes.
    """
    if not _is_engine(path):
        return onnx_file.read(path)[1]
    if not path.is_file():
        raise BadInputError(f"No engine at {path}.", "Build one: hemf-export trt.")
    manifest = artifacts.read_manifest(path)
    if manifest is None:
        raise BadInputError(f"{path} has no manifest: nothing tells what it is.", "Build it again: hemf-export trt.")
    return Description.from_manifest(path, manifest)


def _refusal(kind: Kind, description: Description | None, *, gpu: bool, asked: bool) -> str | None:
    """Why a kind is not run; None where it is."""
    if kind == "compile-graph" or kind in ("ort-cuda", "ort-tensorrt", *ENGINE_KINDS):
        if not gpu:
            return _NO_GPU
        if description is not None and description.precision == "int8-cpu":
            return "the file is for a CPU"
    if not asked and not gpu:
        return _ONLY_ASKED.get(kind)
    return None


def _entries(
    path: Path, kind: Kind, description: Description | None, preprocess: Preprocess, transfers: Transfers, *, gpu: bool
) -> list[Entry]:
    device = "cuda" if gpu and kind != "ort-cpu" else "cpu"
    precision: Precision | Literal["bf16"]
    if description is None:
        half: Literal["fp16", "bf16"] = "fp16" if device == "cuda" else "bf16"
        precision = half if kind in ("amp", "compile-amp", "compile-graph") else "fp32"
    else:
        precision = description.precision
    input_type: InputType = "float32" if description is None else description.input_type
    crossing: dict[Transfers, tuple[bool, ...]] = {"in": (True,), "out": (False,), "both": (True, False)}
    found = []
    for inside in (None,) if device == "cpu" else crossing[transfers]:
        name = f"{kind}, {path.name}" + (", on the GPU" if inside is False else "")
        source = None if description is None else description.source_size
        output: OutputType = "logits" if description is None else description.output_type
        found.append(Entry(name, kind, path, device, inside, precision, input_type, preprocess, source, output))
    return found


def _one_of_a_kind(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """A name that comes again gets a number."""
    seen: dict[str, int] = {}
    found = []
    for entry in entries:
        seen[entry.name] = number = seen.get(entry.name, 0) + 1
        found.append(entry if number == 1 else Entry(**{**vars(entry), "name": f"{entry.name} ({number})"}))
    return tuple(found)


def _is_engine(path: Path) -> bool:
    return path.suffix.lower() in discover.ENGINE_SUFFIXES
