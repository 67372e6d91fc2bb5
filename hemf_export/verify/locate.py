"""Where does a converted file leave the float32 one? Node by node, in graph order, on the images that show it best.

A node whose stored numbers aren't the float32 ones (`stored_numbers`) is damaged for certain and comes
first, whatever it makes of these images; the errors tell of the others.

For every node two errors are measured: what its value is off by in the file (all that came before included), and what
the node does on exact inputs. The second names the culprit: a damaged scale shows at the product that it feeds, and
nowhere behind it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration import divergence, emulation, isolation
from calibration.blocks import blocks
from calibration.graphs import prepare
from calibration.image_set import ImageSet
from calibration.isolation import NodeError
from hemf.errors import BadInputError
from hemf_export import onnx_file
from hemf_export.description import Precision
from hemf_export.verify.bounds import Missed
from hemf_export.verify.counterpart import counterpart
from hemf_export.verify.verified import Verification, Verified

WORST, OTHERS = 2, 6  # images
_BATCH = 2  # all values of a large graph at once take 0.5 GB an image
_LISTED = 8  # nodes beyond the bound that are told
# A node's own error on exact inputs, by the norm of its value. Float32 shows 1e-6, float16 4e-4.
_BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.01}
# In INT8 it depends on how the values are spread. What most of a file's nodes keep to tells what is usual for it: in a
# trained hemf-base 95 % of them are off by less than 1.8 %, and its worst sound one, a projection, by 5.2 %; in
# hemf-tiny one was off by 12 %.
_LEAST_INT8, _MOST_INT8, _TIMES_USUAL, _USUAL = 0.03, 0.3, 4.0, 95


@dataclass(frozen=True)
class Located:
    """What the nodes of one candidate do.

    Args:
        float32: the file that it is compared with.
        images: that were looked at, by their names in the report.
        bound: of a node's own error; what leaves it is named.
        fails_beyond: what no sound node reaches: beyond it the file fails. In INT8 a sound node may stand out.
        nodes: all that could be compared, in graph order.
        blocks: of each of them.
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
        """The nodes whose own error leaves the bound, in graph order."""
        return tuple(node for node in self.nodes if not node.own <= self.bound)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
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


def locate(
    found: Verification,
    candidate: Verified,
    float32: Path,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    damaged: Collection[str] = (),
) -> Located:
    """Compare the nodes of a candidate with those of the float32 file that it was made from.

    Args:
        found: the verification that the candidate is of; some of its images are used.
        candidate: an ONNX file.
        float32: the file.
        progress: told the phase, how much of it is done, and of how much.
        damaged: names of nodes that are known to be.

    Raises:
        BadInputError: the float32 file shares no values with the candidate.
    """
    path, model = candidate.subject.path, candidate.subject.model
    reference = counterpart(float32, path)
    proto = onnx_file.read(path)[0]
    converted = emulation.of_file(proto) if model.precision != "fp32" else prepare(proto)
    if not divergence.comparable(reference, converted):
        raise BadInputError(f"{path.name} shares no value with {float32.name}.", "Was it made from that file?")
    chosen = chosen_images(found, candidate)
    images = ImageSet(found.images, model.input, model.fixed_batch).only(chosen)
    errors = isolation.measure(
        reference, converted, list(images.batches(_BATCH)),
        lambda done, total: progress(f"comparing the nodes of {path.name}", done, total),
    )  # fmt: skip
    where = blocks(reference.graph)
    names = tuple(found.name_of(index) for index in chosen)
    bound = _bound(model.precision, errors)
    fails_beyond = _BOUNDS.get(model.precision, _MOST_INT8)
    in_blocks = tuple(where[error.node] for error in errors)
    return Located(float32, names, bound, fails_beyond, tuple(errors), in_blocks, frozenset(damaged))


def add(found: Verification, located: dict[Path, Located]) -> Verification:
    """The verification with what was located: a node beyond what a sound one may do is a bound that was missed."""
    candidates = []
    for candidate in found.candidates:
        where = located.get(candidate.subject.path)
        candidates.append(candidate if where is None else _with(candidate, where))
    extra = {
        str(path): {**found.extra.get(str(path), {}), "divergence": where.to_dict()} for path, where in located.items()
    }
    return dataclasses.replace(found, candidates=tuple(candidates), extra={**found.extra, **extra})


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


def chosen_images(found: Verification, candidate: Verified, others: int = OTHERS) -> list[int]:
    """The images that show best what a file does otherwise: those that differ most, and `others` spread over the rest.

    Those few may lack what some node sees only in others.
    """
    worst = divergence.worst_images(candidate.subject.logits, found.reference.logits, WORST)
    rest = [index for index in range(len(found.images)) if index not in worst]
    spread = np.linspace(0, len(rest) - 1, min(others, len(rest))).astype(int).tolist()
    return [*worst, *(rest[index] for index in spread)]


def _bound(precision: Precision, errors: Sequence[NodeError]) -> float:
    if precision in _BOUNDS:
        return _BOUNDS[precision]
    own = [error.own for error in errors if math.isfinite(error.own) and error.own > _BOUNDS["fp32"]]
    usual = float(np.percentile(own, _USUAL)) if own else 0.0
    return min(_MOST_INT8, max(_LEAST_INT8, _TIMES_USUAL * usual))
