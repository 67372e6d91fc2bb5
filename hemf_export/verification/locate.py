"""Locate where a converted file diverges from the float32 one, node by node, on the images that show it best.

A node whose stored numbers aren't the float32 ones (`stored_numbers`) is certainly damaged and comes first, whatever it
computes on these images; the other nodes are judged by their errors.

Two errors are measured for every node: the error of its value in the file, with all that accumulated before it, and its
own error on exact inputs. The second locates the fault: a damaged scale shows at the product that it feeds, and nowhere
after it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from hemf_export.calibration import emulation, forms, node_errors
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.graphs import prepare
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.node_errors import NodeError
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models.description import Precision
from hemf_export.models.model_file import OnnxFile
from hemf_export.verification.bounds import Missed
from hemf_export.verification.verification import Verification, Verified

WORST, OTHERS = 2, 6  # images
_BATCH = 2  # all values of a large graph take 0.5 GB per image
_LISTED = 8  # nodes beyond the bound
# Bounds on a node's own error on exact inputs, by the norm of its value. Float32 shows 1e-6, float16 4e-4.
_BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.01}
# In INT8 that error depends on the distribution of the values, so the bound follows from the file's other nodes. In a
# trained hemf-base 95 % of them are off by less than 1.8 %, and the worst sound one, a projection, by 5.2 %; in
# hemf-tiny one was off by 12 %.
_LEAST_INT8, _MOST_INT8, _TIMES_USUAL, _USUAL = 0.03, 0.3, 4.0, 95


@dataclass(frozen=True)
class Located:
    """Errors of the nodes of one candidate.

    Args:
        float32: the file that the candidate is compared with.
        images: the images that were used, by their names in the report.
        bound: a node whose own error is larger stands out, and is listed.
        fails_beyond: a node whose own error is larger fails the file. In INT8 a sound node may stand out without that.
        nodes: all that could be compared, in graph order.
        blocks: the block of each node.
        damaged: names of nodes whose stored numbers are beyond their bounds.
    """

    float32: Path
    images: tuple[str, ...]
    bound: float
    fails_beyond: float
    nodes: tuple[NodeError, ...]
    blocks: tuple[str, ...]
    damaged: frozenset[str] = frozenset()

    @property
    def beyond(self) -> tuple[NodeError, ...]:
        """Nodes whose own error is beyond the bound, in graph order."""
        return tuple(node for node in self.nodes if not node.own <= self.bound)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
        listed = [self._node(node, block) for node, block in zip(self.nodes, self.blocks, strict=True)]
        beyond = [values for values, node in zip(listed, self.nodes, strict=True) if not node.own <= self.bound]
        damaged = [values for values in listed if values["node"] in self.damaged]
        return {
            "float32_file": self.float32.name,
            "images": list(self.images),
            "bound": self.bound,
            "fails_beyond": self.fails_beyond,
            "first": next(iter((*damaged, *beyond)), None),
            "damaged": [values["node"] for values in damaged],
            "beyond": beyond[:_LISTED],
            "nodes_beyond": len(beyond),
            "nodes": listed,
        }

    @staticmethod
    def _node(node: NodeError, block: str) -> dict[str, Any]:
        error, own = (value if math.isfinite(value) else None for value in (node.error, node.own))
        return {"node": node.node, "operator": node.operator, "block": block, "error": error, "own_error": own}


def counterpart(float32: Path, converted: Path) -> ir.Model:
    """Read the float32 file in the form for a backend that `converted` was brought to, which its manifest names.

    A pass of `calibration.forms` names what it writes by the block that it writes it for. So one list of passes over
    one float32 file always gives one set of names, and what stands under a name in both graphs is the same value.

    Args:
        float32: the file that `converted` was made from.
        converted: an ONNX file; one whose manifest names no form has the float32 file's own.

    Raises:
        BadInputError: a file, or its manifest.
    """
    model = prepare(OnnxFile.open(float32).read())
    recorded = (OnnxFile.open(converted).manifest or {}).get("form")
    if not isinstance(recorded, dict):
        return model
    passes = recorded.get("passes")
    for form in forms.FORMS:
        if form == recorded.get("for"):
            forms.rewrite(model, form, only=tuple(passes) if isinstance(passes, dict) else ())
    return model


def locate(
    verification: Verification,
    candidate: Verified,
    float32: Path,
    progress: Progress = SILENT,
    damaged: Collection[str] = (),
) -> Located:
    """Compare the nodes of a candidate with those of the float32 file that it was made from.

    Args:
        verification: the one that the candidate belongs to; some of its images are used.
        candidate: an ONNX file.
        float32: the file that the candidate was made from.
        progress: receives the steps.
        damaged: names of nodes that are known to be damaged.

    Raises:
        BadInputError: the float32 file shares no values with the candidate.
    """
    path, model = candidate.subject.path, candidate.subject.model
    reference = counterpart(float32, path)
    proto = OnnxFile.open(path).read()
    converted = emulation.of_file(proto) if model.description.precision != "fp32" else prepare(proto)
    if not node_errors.comparable(reference, converted):
        raise BadInputError(f"{path.name} shares no value with {float32.name}.", "Was it made from that file?")
    chosen = chosen_images(verification, candidate)
    images = ImageSet(verification.images, model.description.input, model.fixed_batch).only(chosen)
    with progress.task(f"Comparing the nodes of {path.name}"):
        errors = node_errors.measure(reference, converted, list(images.batches(_BATCH)), progress)
    where = blocks(reference.graph)
    names = tuple(verification.name_of(index) for index in chosen)
    bound = _bound(model.description.precision, errors)
    fails_beyond = _BOUNDS.get(model.description.precision, _MOST_INT8)
    in_blocks = tuple(where[error.node] for error in errors)
    return Located(float32, names, bound, fails_beyond, tuple(errors), in_blocks, frozenset(damaged))


def add(verification: Verification, located: dict[Path, Located]) -> Verification:
    """Add the located nodes to the verification: a node beyond `fails_beyond` is a missed bound."""
    candidates = []
    for candidate in verification.candidates:
        where = located.get(candidate.subject.path)
        candidates.append(candidate if where is None else _with(candidate, where))
    extra = {
        str(path): {**verification.extra.get(str(path), {}), "divergence": where.to_dict()}
        for path, where in located.items()
    }
    return dataclasses.replace(verification, candidates=tuple(candidates), extra={**verification.extra, **extra})


def _with(candidate: Verified, where: Located) -> Verified:
    failed = [node for node in where.beyond if not node.own <= where.fails_beyond]
    if not failed:
        return candidate
    first = failed[0]
    block = where.blocks[where.nodes.index(first)]
    more = f", {len(failed) - 1} more nodes as well" if len(failed) > 1 else ""
    text = (
        f"{first.node} ({block}) is off by {first.own:.2g} of its value on exact inputs, "
        f"bound {where.fails_beyond:.2g}{more}"
    )
    figure = first.own if math.isfinite(first.own) else None
    missed = Missed("node_error", figure, where.fails_beyond, text)
    return dataclasses.replace(candidate, missed=(*candidate.missed, missed))


def chosen_images(verification: Verification, candidate: Verified, others: int = OTHERS) -> list[int]:
    """Choose the images that show differences best: those that differ most, and `others` spread over the rest.

    With so few, a value that some node reaches only in other images may be missing.
    """
    worst = node_errors.worst_images(candidate.subject.logits, verification.reference.logits, WORST)
    rest = [index for index in range(len(verification.images)) if index not in worst]
    spread = np.linspace(0, len(rest) - 1, min(others, len(rest))).astype(int).tolist()
    return [*worst, *(rest[index] for index in spread)]


def _bound(precision: Precision, errors: Sequence[NodeError]) -> float:
    if precision in _BOUNDS:
        return _BOUNDS[precision]
    own = [error.own for error in errors if math.isfinite(error.own) and error.own > _BOUNDS["fp32"]]
    usual = float(np.percentile(own, _USUAL)) if own else 0.0
    return min(_MOST_INT8, max(_LEAST_INT8, _TIMES_USUAL * usual))
