"""What `bench` compares: the files named, or what lies in the folder, each by every runner that suits it.

Nothing is loaded here; what can't take part is listed with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemf import artifacts, checkpoint
from hemf.errors import BadInputError, UsageError, did_you_mean
from hemf.images import Preprocess
from hemf.model_input import ModelInput
from hemf.model_output import OutputType
from hemf.reading import PLAIN, Reading
from hemf_export import discover, graph_source, model_kind, onnx_file
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
    files: Sequence[Path],
    folder: Path,
    *,
    kinds: tuple[Kind, ...] | None,
    transfers: Transfers,
    gpu: bool,
    reading: Reading = PLAIN,
) -> Lineup:
    """Look at what is to be compared.

    Args:
        files: a checkpoint, ONNX files and engines; empty for what lies in `folder`. One named twice runs twice.
        folder: looked through for the files, and for the checkpoint by its hash.
        kinds: of runners; None for those that usually make sense here.
        transfers: of what runs on a GPU.
        gpu: whether there is one that PyTorch can use.
        reading: how the checkpoint is read; by default as the other files say it was when they were made.

    Raises:
        BadInputError: nothing to compare, or files of different models.
    """
    checkpoints, described, notes = _sorted_out(files, folder)
    hashes = {description.checkpoint_sha256 for _, description in described}
    hashes |= {artifacts.sha256(path) for path in checkpoints if path.is_file()}
    if len(hashes) > 1 or len(checkpoints) > 1:
        names = ", ".join(path.name for path in (*checkpoints, *(path for path, _ in described)))
        raise BadInputError(
            f"These are made from {len(hashes)} different checkpoints: {names}.", "Name files of one model."
        )
    if not checkpoints:
        near = sorted({folder, *(path.parent for path, _ in described)})
        origin = next(filter(None, (discover.origin_of(place, next(iter(hashes))) for place in near)), None)
        if origin is None:
            notes.append("The checkpoint these files were made from is not here: PyTorch is not timed.")
        elif model_kind.kind_of(origin) == "checkpoint":
            checkpoints = [origin]
        elif all(model_kind.kind_of(path) == "engine" or onnx_file.is_ours(path) for path, _ in described):
            described.append((origin, graph_source.read_origin(origin, [one for _, one in described]).description))
    if reading == PLAIN:
        reading = next((one.reading for _, one in described if one.reading != PLAIN), PLAIN)
    timed = not described or kinds is None or any(kind in TORCH_KINDS for kind in kinds)
    saved = checkpoint.load(checkpoints[0], reading=reading) if checkpoints and timed else None
    if saved is not None:
        notes += saved.notes
    preprocess = saved.preprocess if saved is not None and not described else described[0][1].preprocess
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
        made = _entries(path, kind, told, preprocess, transfers, gpu=gpu)
        entries.extend(dataclasses.replace(one, reading=reading) if kind in TORCH_KINDS else one for one in made)
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
    graphs = tuple(pair for pair in described if not _is_engine(pair[0]) and onnx_file.is_ours(pair[0]))
    return Lineup(
        _one_of_a_kind(entries), tuple(not_run), graphs, ModelInput(preprocess, source is not None, source),
        next(iter(batches), None), next(iter(hashes)), tuple(notes),
    )  # fmt: skip


def _sorted_out(files: Sequence[Path], folder: Path) -> tuple[list[Path], list[tuple[Path, Description]], list[str]]:
    """Checkpoints; ONNX files and engines with their descriptions; and what a user should know of others' files."""
    if not files:
        found = [path for path, _ in discover.onnx_files(folder)]
        found += [path for path in model_kind.found_in(folder, "engine") if artifacts.manifest_path(path).is_file()]
        if not found:
            raise BadInputError(
                f"No ONNX file of ours lies in {folder.resolve()}.", "Make one: hemf-export onnx CKPT, or name files."
            )
        return [], [(path, describe(path)) for path in found], []
    kinds = [(path, model_kind.kind_of(path)) for path in files]
    others = [path for path, kind in kinds if kind == "onnx" and not onnx_file.is_ours(path)]
    described = [(path, describe(path)) for path, kind in kinds if kind != "checkpoint" and path not in others]
    notes: list[str] = []
    for path in others:
        source = graph_source.read(path)
        own = next((one for _, one in described if one.checkpoint_sha256 == source.sha256), None)
        notes += source.notes if own is None else ()
        described.append((path, source.description if own is None else dataclasses.replace(own, precision="fp32")))
    return [path for path, kind in kinds if kind == "checkpoint"], described, notes


def describe(path: Path) -> Description:
    """What an ONNX file says of itself, or an engine's manifest of it.

    Raises:
        BadInputError: it isn't one, or not what it describes.
    """
    if not _is_engine(path):
        return onnx_file.read(path)[1]
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
        found.append(
            Entry(
                name, kind, path, device, inside, precision, input_type, preprocess, source_size=source,
                output_type=output,
            )
        )  # fmt: skip
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
    return model_kind.kind_of(path) == "engine"
