"""Float32 ONNX file → float16 ONNX file, proven against the float32 one before it is kept.

Both run in ONNX Runtime; float16 is emulated as a GPU computes it (see `calibration.emulation`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import forms
from calibration.emulation import emulate
from calibration.forms import MIN_OPSET, Rewriting
from calibration.fp16 import Conversion, to_float16
from calibration.graphs import parse, prepare
from calibration.session import Session
from hemf import artifacts, locks
from hemf.errors import BadInputError, CheckFailedError, UsageError
from hemf.model_output import ModelOutput
from hemf_export import (
    form_choice,
    graph_source,
    graph_writing,
    image_labels,
    onnx_file,
    parity,
    plausibility,
    written,
)
from hemf_export.description import Description
from hemf_export.onnx_export import Step
from hemf_export.parity import Parity, Samples
from hemf_export.same_model import compare_scores
from hemf_export.trial_engine import Compiler

MAX_LOGIT_DIFFERENCE = 0.05
MAX_SHARE_OF_LOGITS = 0.01  # float16 has three digits: a network of large logits may differ by more
MAX_PROBABILITY_DIFFERENCE = 0.025  # what two logits that differ by their bound do to a probability at most
MIN_AGREEMENT = 0.99
IMAGES = 64
NOISE_IMAGES = 8
_BATCH = 4


@dataclass(frozen=True)
class Bounds:
    """What the float16 graph may differ by from the float32 one.

    Args:
        max_logit_difference: of any logit, or of any probability where a file gives those; None for
            `MAX_LOGIT_DIFFERENCE`, or `MAX_SHARE_OF_LOGITS` of the largest float32 logit where that is more, and for
            `MAX_PROBABILITY_DIFFERENCE` of probabilities.
        min_agreement: share of the images that keep their class; None for `MIN_AGREEMENT` on real images, where one may
            always change, and for nothing on noise: where two classes lie closer together than float16 can tell, no
            image shows more than that.

    Raises:
        UsageError: a value out of range.
    """

    max_logit_difference: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_logit_difference is not None and not 0 <= self.max_logit_difference < math.inf:
            raise UsageError(f"The largest logit difference must be 0 or more, not {self.max_logit_difference}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"The agreement is a share, 0 to 1, not {self.min_agreement}.")

    def agreement_bound(self, samples: Samples) -> float:
        """The least share of `samples` that must keep their class."""
        if samples.files is None and self.min_agreement is None:
            return 0.0
        return self.agreement_of(samples.count)

    def agreement_of(self, images: int) -> float:
        """The least share of so many real images that must keep their class."""
        return self.min_agreement if self.min_agreement is not None else min(MIN_AGREEMENT, 1 - 1 / images)

    def score_bound(self, output: ModelOutput, largest: float) -> float:
        """The bound for what a file gives, of which the largest float32 score is `largest`."""
        if output.of_probabilities and self.max_logit_difference is None:
            return MAX_PROBABILITY_DIFFERENCE
        return self.logit_bound(largest)

    def logit_bound(self, largest_logit: float) -> float:
        """The bound for float32 logits of at most this size."""
        if self.max_logit_difference is not None:
            return self.max_logit_difference
        return max(MAX_LOGIT_DIFFERENCE, MAX_SHARE_OF_LOGITS * largest_logit)


@dataclass(frozen=True)
class Float16File:
    """A finished float16 ONNX file.

    `written` is what the file itself computes, see `hemf_export.written`; `form` what a manifest says of the rewriting.
    """

    path: Path
    description: Description
    rewriting: Rewriting
    form: dict[str, Any]
    conversion: Conversion
    parity: Parity
    written: dict[str, Any]
    bound: float
    notes: tuple[str, ...] = ()


@locks.owning(lambda source, output, **_: (output,))
def convert(
    source: Path,
    output: Path,
    *,
    images: Path | None = None,
    count: int = IMAGES,
    bounds: Bounds | None = None,
    compiler: Compiler | None = None,
    step: Step | None = None,
) -> Float16File:
    """Convert a float32 ONNX file, ours or another's, prove the result, and put it and its manifest at `output`.

    Args:
        source: the float32 file.
        output: the float16 file.
        images: a folder to prove on; without, seeded noise.
        count: at most so many images of it.
        bounds: what the proof requires.
        compiler: of the engine; None for TensorRT-RTX and a T4.
        step: shows what is under way.

    Raises:
        BadInputError: the file or the images.
        CheckFailedError: a bound is missed; nothing is left behind.
    """
    step, bounds, compiler = step or (lambda text: nullcontext()), bounds or Bounds(), compiler or Compiler()
    artifacts.check_writable(output)
    artifacts.check_distinct(source, output)
    with step(f"Reading {source.name}"):
        origin = graph_source.read(source)
        described = origin.description
        samples, batch = _samples(images, described, count), described.batch or _BATCH
        plain = onnx_file.is_ours(source) and onnx_file.opset(origin.proto) >= MIN_OPSET
        graph = parse(origin.proto) if plain else prepare(origin.proto)
        origin.proto.Clear()
    original = origin.session()
    choice = form_choice.choose(graph, compiler, described, ours=onnx_file.is_ours(source), step=step)
    with step(f"Converting {source.name} to float16, for {compiler.form}"):
        rewriting = forms.rewrite(graph, compiler.form, only=choice.passes)
        exactness = _require_same(graph, original, rewriting, next(_inputs(samples, described, batch)))
        conversion = to_float16(graph)
        description = dataclasses.replace(described, precision="fp16")
        onnx_file.describe(graph, description)
    with artifacts.atomic_path(output) as temporary:
        graph_writing.save(graph, temporary)
        emulated = Session(emulate(graph), output=described.output)
        del graph
        with step(f"Proving float16 against float32 on {samples.count} images"):
            exact, found = (_logits(session, samples, described, batch) for session in (original, emulated))
        doubts: tuple[str, ...] = ()
        if samples.files is not None:
            doubts = plausibility.look(samples.files, exact, described.input, original.logits, batch)
        proof = parity.compare(found, exact, source=samples.source, batches=(batch,), labels=samples.labels)
        bound = bounds.score_bound(described.output, proof.largest_logit)
        proof.require(
            f"{output.name} against {source.name}",
            option="--max-logit-diff",
            max_difference=bound,
            min_agreement=bounds.agreement_bound(samples),
            noun=described.output.noun,
        )
        inputs = _inputs(samples, described, batch)
        as_written = written.check(temporary, output.name, inputs, found, exact, described.output)
    fields = {"kind": "onnx", "parent": source.name, "parent_sha256": origin.sha256, **description.to_dict()}
    proofs = {"parity": {**proof.to_dict(), "float16_emulated": True}, "file_as_written": as_written}
    told = {**rewriting.to_dict(), **exactness, **choice.to_dict()}
    changes = {"form": told, "conversion": conversion.to_dict()}
    artifacts.write_manifest(output, {**fields, **changes, **proofs})
    notes = (*origin.notes, *([choice.note] if choice.note else []), *(f"{source.name}: {text}" for text in doubts))
    return Float16File(output, description, rewriting, told, conversion, proof, as_written, bound, notes)


def _require_same(
    graph: ir.Model, original: Session, rewriting: Rewriting, inputs: NDArray[np.generic]
) -> dict[str, Any]:
    """See that a rewritten graph, still in float32, computes what the file does; the figure, for the manifest.

    Raises:
        CheckFailedError: it doesn't.
    """
    if not rewriting.places:
        return {}
    found = Session(graph, output=original.output).logits(inputs)
    difference, allowed = compare_scores(found, original.logits(inputs))
    if not difference <= allowed:
        raise CheckFailedError(
            f"{original.name}, rewritten for {rewriting.form}, is another model: a {original.output.noun} differs by "
            f"{difference:.3g}, bound {allowed:.3g} ({len(inputs)} images; {rewriting}).",
            "No file was kept. Please report this graph.",
        )
    return {"images": len(inputs), "max_difference": difference}


def _samples(images: Path | None, described: Description, count: int) -> Samples:
    files = None if images is None else image_labels.read(images, described.classes)[0]
    if described.batch is not None:
        # A fixed batch takes whole batches only.
        count = max(1, (count if files is not None else NOISE_IMAGES) // described.batch) * described.batch
        if files is not None:
            count = min(count, len(files) // described.batch * described.batch)
            if count == 0:
                raise BadInputError(f"{images} has {len(files)} images; the graph's batch is {described.batch}.")
        return Samples(described.input, files, count)
    return Samples(described.input, files, count if files is not None else NOISE_IMAGES)


def _inputs(samples: Samples, described: Description, batch: int) -> Iterator[NDArray[np.generic]]:
    for pixels in samples.pixels((batch,) * -(-samples.count // batch)):
        yield described.input.network(pixels)


def _logits(session: Session, samples: Samples, described: Description, batch: int) -> NDArray[np.float32]:
    return np.concatenate([session.logits(inputs) for inputs in _inputs(samples, described, batch)])
