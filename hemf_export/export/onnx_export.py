"""Export a checkpoint to ONNX: folded, exported by torch's dynamo exporter, cleaned, simplified, and proven.

The graph is exported for one batch size, which is faster, and its batch axis is made dynamic afterwards; the proof runs
several batch sizes, which a graph with the first one left in it would fail.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from hemf_export.calibration import forms
from hemf_export.calibration.forms import Form, Rewriting
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.export import graph_cleanup, graph_writing, tracing
from hemf_export.export.parity import Parity, Samples
from hemf_export.export.raw_pixels import RawPixels
from hemf_export.export.simplify import SimplificationError, Simplifier
from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import image_labels
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput, SourceSize
from hemf_export.metrics.comparison import compare
from hemf_export.models import file_kinds, onnx_model, proof
from hemf_export.models.description import Description, InputType
from hemf_export.models.model_file import CheckpointFile, OnnxFile
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.models.runners import OnnxRunner, TorchRunner
from hemf_export.networks import network, registry
from hemf_export.networks.network import Network

OPSET_DEFAULT, OPSET_MIN, OPSET_MAX = 20, 17, 23
_TORCH_OPSET_MIN = 18  # oldest opset of torch's exporter, which writes 18 where 17 is requested
TOLERANCE = 1e-4  # largest difference of a logit, ONNX Runtime from PyTorch, both float32
PROOF_BATCHES = (1, 2, 3, 5)
_OTHER_BATCHES = (1, 3)
_TRACED_BATCH = 2  # any but 1, which torch would treat as a broadcast axis
_PROVENANCE = ("layout", "weights", "assumed")  # how a checkpoint of another training program was read


@dataclass(frozen=True)
class Options:
    """Options of an export.

    Args:
        opset: ONNX opset version, 17 to 23.
        batch: fixed batch size; None for a dynamic one.
        input_type: float32 takes normalized images, uint8 raw pixels.
        source_size: size of the raw images that the graph resizes itself; None where they are resized beforehand.
        images: folder of images to prove on; None for seeded noise.
        tolerance: largest difference of a logit from PyTorch's.
        form: backend whose form the graph is brought to.

    Raises:
        UsageError: a value out of range, or a combination that makes no sense.
    """

    opset: int = OPSET_DEFAULT
    batch: int | None = None
    input_type: InputType = "float32"
    source_size: SourceSize | None = None
    images: Path | None = None
    tolerance: float = TOLERANCE
    form: Form = "cpu"

    def __post_init__(self) -> None:
        if not OPSET_MIN <= self.opset <= OPSET_MAX:
            raise UsageError(f"opset must be {OPSET_MIN} to {OPSET_MAX}, not {self.opset}.")
        if self.form != "cpu" and self.opset < forms.MIN_OPSET:
            raise UsageError(f"The form for {self.form} needs opset {forms.MIN_OPSET} or newer, not {self.opset}.")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch must be at least 1 or dynamic, not {self.batch}.")
        if self.source_size is not None and self.input_type != "uint8":
            raise UsageError("`source_size` is for raw pixels.", "Add `input='uint8'`.")

    def input(self, preprocess: Preprocess) -> ModelInput:
        """Input of the exported model."""
        return ModelInput(preprocess, self.input_type == "uint8", self.source_size)


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        path: the ONNX file.
        description: the description that it carries.
        parity: its comparison with PyTorch.
        proof: that comparison as its manifest has it.
        nodes: number of nodes of the graph.
        rewriting: passes for the backend.
        notes: remarks for the user.
    """

    path: Path
    description: Description
    parity: Parity
    proof: Proof
    nodes: int
    rewriting: Rewriting
    notes: tuple[str, ...]


def default_output(source: Path) -> Path:
    """Default output beside a checkpoint: `best.pt` and `best.pth.tar` → `best.onnx`.

    Raises:
        BadInputError: a file of another program has that name.
    """
    output = source.with_name(f"{file_kinds.stem(source)}.onnx")
    if output.exists() and not output.samefile(source) and not _is_ours(output):
        raise BadInputError(
            f"{output} is there already, and hemf-export didn't write it: it is left alone.",
            "Move it away, or choose another output with `output`.",
        )
    return output


def _is_ours(path: Path) -> bool:
    try:
        return OnnxFile.open(path).stored_description is not None
    except BadInputError:
        return False


@locks.owning(lambda source, output, *_, **__: (output,))
def export(
    source: Path,
    output: Path,
    options: Options,
    *,
    classes: tuple[str, ...] | None = None,
    reading: Reading = PLAIN,
    progress: Progress = SILENT,
) -> Exported:
    """Export the checkpoint `source`, prove the file, and only then put it and its manifest at `output`.

    Args:
        source: a checkpoint; see `checkpoints.checkpoint.load`.
        output: the ONNX file.
        options: options of the export.
        classes: class names, for a checkpoint without.
        reading: how the checkpoint is read, which the file records, so that comparisons read it likewise.
        progress: receives the steps.

    Raises:
        BadInputError: the checkpoint or the images.
        InUseError: another process is writing that file.
        CheckFailedError: the file's logits differ from PyTorch's by more than the tolerance; no file is written.
    """
    file = CheckpointFile.open(source, classes=classes, reading=reading)
    artifacts.check_writable(output)
    artifacts.check_distinct(source, output)
    with progress.task(f"Reading {source.name}"):
        saved = file.load()
        saved.check_finite()
        images = None if options.images is None else image_labels.read(options.images, saved.classes)[0]
    notes = list(saved.notes)
    samples = Samples(options.input(saved.preprocess), images, sum(_proof_batches(options.batch)))
    if samples.count < sum(_proof_batches(options.batch)) and options.batch is not None:
        raise BadInputError(
            f"{options.images} has {samples.count} images; a proof of batch {options.batch} needs more."
        )
    with progress.task("Computing PyTorch's logits"):
        model = saved.model()
        reference = _reference(model, samples, _proof_batches(options.batch))
    with Simplifier() as simplifier:  # started now, as the export uses one core only
        with progress.task("Exporting the graph"):
            graph = export_graph(model, saved.preprocess, options)
        del model
        with progress.task("Simplifying"):
            graph = _simplified(simplifier, graph, notes)
    rewriting = forms.rewrite(graph, options.form)
    description = _describe(saved, options, reading)
    onnx_model.describe(graph, description)
    nodes = len(list(graph.graph))
    with artifacts.atomic_path(output) as temporary:
        with progress.task("Writing"):
            graph_writing.save(graph, temporary)
            del graph
        with progress.task("Proving ONNX Runtime against PyTorch"):
            compared = _prove(temporary, samples, reference, options)
            compared.require(f"{output.name} against PyTorch", option="`tolerance`", max_difference=options.tolerance)
    fields = {"kind": "onnx", "parent": source.name, **description.to_dict(), "opset": options.opset, "nodes": nodes,
              "form": rewriting.to_dict()}  # fmt: skip
    if provenance := {name: saved.provenance[name] for name in _PROVENANCE if name in saved.provenance}:
        fields["provenance"] = provenance
    evidence = _evidence(compared, samples, options)
    artifacts.write_manifest(output, {**fields, proof.KEY: evidence.to_dict()})
    return Exported(output, description, compared, evidence, nodes, rewriting, tuple(notes))


def export_graph(model: nn.Module, preprocess: Preprocess, options: Options) -> ir.Model:
    """Export the cleaned float32 graph of `model`, which is folded in place."""
    network.fold(model)
    model.requires_grad_(False)
    model_input = options.input(preprocess)
    traced: nn.Module = RawPixels(model, model_input).eval() if model_input.raw else model
    pixels = np.zeros((options.batch or _TRACED_BATCH, model_input.height, model_input.width, 3), np.uint8)
    example = torch.from_numpy(np.ascontiguousarray(model_input.network(pixels)))
    opset = max(options.opset, _TORCH_OPSET_MIN)
    graph = tracing.trace(traced, example, opset)
    _cleaned(graph)
    if options.batch is None:
        graph_cleanup.free_batch(graph, "batch")
        if not isinstance(model, Network):
            graph = _traced_at_any_batch(traced, example, opset, graph, options.tolerance)
    if options.opset < _TORCH_OPSET_MIN:
        graph_cleanup.lower_to_opset_17(graph)
    return graph


def _traced_at_any_batch(model: nn.Module, example: Tensor, opset: int, graph: ir.Model, tolerance: float) -> ir.Model:
    """Return the graph of a network of a user's own that computes what the network does at every batch size.

    Args:
        model: the network, with what the graph has in front of it.
        example: its input, of the batch size that `graph` was traced with.
        opset: ONNX opset version.
        graph: the graph, its batch axis freed.
        tolerance: largest difference of a logit.

    Returns:
        `graph`, or where another batch size shows that it holds the traced one, a graph traced with a symbol for it.

    Raises:
        BadInputError: the batch size is a number in the network's own code.
    """
    try:
        if _difference(model, example, graph) <= tolerance:
            return graph
        failure = "its logits are others"
    except BadInputError as error:
        failure = error.message
    named = re.search(r"Name:'([^']*)/", failure)
    known = named is not None and named[1] in dict(model.named_modules())
    where = f" in the module {named[1]}" if named and known else ""
    try:
        symbolic = tracing.trace(model, example, opset, any_batch=True)
        _cleaned(symbolic)
        graph_cleanup.name_batch(symbolic, "batch")
        graph_cleanup.forget_shapes(symbolic)
        _difference(model, example, symbolic)
    except BadInputError as error:
        raise BadInputError(
            f"The batch size is fixed in the network's code{where}: traced with {len(example)} images, the graph fails "
            f"with others. {error.message}",
            "Take it from the images, as in x.shape[0], which len(x) and int() fix; or export one batch size: "
            "`batch=N`.",
        ) from error
    return symbolic


def _difference(model: nn.Module, example: Tensor, graph: ir.Model) -> float:
    """Largest difference of a logit at two other batch sizes; the graph's, or BadInputError, where it doesn't run."""
    runner, differences = OnnxRunner(graph), []
    for size in _OTHER_BATCHES:
        pixels = np.random.default_rng(size).integers(0, 256, (size, *example.shape[1:]), np.uint8)
        images = torch.from_numpy(pixels if example.dtype == torch.uint8 else (pixels / 127.5 - 1).astype(np.float32))
        with torch.inference_mode():
            expected = model(images).numpy()
        found = runner.infer(images.numpy())
        same = found.shape == expected.shape
        differences.append(float(np.abs(found - expected).max()) if same else math.inf)
    return max(differences)


def _cleaned(graph: ir.Model) -> None:
    graph_cleanup.clean(graph)
    graph_cleanup.fold_batch_norms(graph)
    graph_cleanup.name_by_scope(graph)


def _simplified(simplifier: Simplifier, graph: ir.Model, notes: list[str]) -> ir.Model:
    try:
        return simplifier.simplify(graph)
    except SimplificationError as error:
        notes.append(f"onnxsim failed ({error}); the graph was kept as it was.")
        return graph


def _describe(saved: Checkpoint, options: Options, reading: Reading) -> Description:
    return Description(
        name=saved.config.name,
        classes=saved.classes,
        preprocess=saved.preprocess,
        precision="fp32",
        input_type=options.input_type,
        batch=options.batch,
        checkpoint_sha256=saved.sha256,
        versions=artifacts.versions(),
        source_size=options.source_size,
        reading=reading,
        network=registry.family_of(saved.config).describe(saved.config),
    )


def _proof_batches(batch: int | None) -> tuple[int, ...]:
    return PROOF_BATCHES if batch is None else (batch, batch)


def _reference(model: nn.Module, samples: Samples, sizes: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Compute PyTorch's logits of images that Pillow resized and NumPy normalized."""
    runner, model_input = TorchRunner(model), samples.input
    return np.concatenate(
        [
            runner.infer(model_input.preprocess.normalize(model_input.resized(pixels)))
            for pixels in samples.pixels(sizes)
        ]
    )


def _prove(path: Path, samples: Samples, reference: np.ndarray[Any, np.dtype[np.float32]], options: Options) -> Parity:
    runner = OnnxRunner(path)
    parts = [runner.infer(samples.input.network(pixels)) for pixels in samples.pixels(_proof_batches(options.batch))]
    sizes = tuple(len(part) for part in parts)
    return Parity(compare(np.concatenate(parts), reference, samples.labels), samples.source, sizes)


def _evidence(compared: Parity, samples: Samples, options: Options) -> Proof:
    """Proof for the manifest, of a comparison with PyTorch."""
    if samples.files is None:
        images = ImageRecord(samples.source, samples.count, noise=True)
    else:
        images = ImageRecord.from_dict(samples.files.to_dict())
    return Proof(images, Figures.from_dict(compared.comparison.to_dict()), bound=options.tolerance)
