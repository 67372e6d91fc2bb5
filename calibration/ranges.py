"""What the activations of a graph look like on real images: a histogram of each, in one pass and bounded memory.

Values that only move elements (Reshape, Transpose …) have the distribution of what they move, and are not recorded
twice. Rows are looked at where a layer norm needs it: float16 can square a row's deviations too large or too small.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.session import Session
from hemf.processors import usable_cores

MOVES = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity")
NORMS = ("LayerNormalization",)
_SAMPLES_AN_IMAGE = 1 << 15  # of each value; its extremes are those of all elements
_VALUES_A_RUN = 1000  # outputs fetched at once: a run that keeps every value of a large graph takes its memory


@dataclass
class RowStatistics:
    """The smallest and the largest variance of a row, over the rows that a layer norm sees.

    Args:
        low: the smallest.
        high: the largest.
    """

    low: float = float("inf")
    high: float = 0.0

    def add(self, values: NDArray[np.float32], axis: int) -> None:
        """Take in a batch; a row spans `axis` and all behind it."""
        rows = values.reshape(*values.shape[:axis], -1)
        variances = rows.var(-1)
        self.low, self.high = min(self.low, float(variances.min())), max(self.high, float(variances.max()))


@dataclass
class Ranges:
    """What one pass recorded.

    Args:
        histograms: by the value's name.
        rows: of the inputs of layer norms, by the value's name.
        images: how many were seen.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    rows: dict[str, RowStatistics] = field(default_factory=dict)
    images: int = 0


def source_of(value: ir.Value) -> ir.Value:
    """The value whose elements `value` has, before any moves."""
    while (node := value.producer()) is not None and node.op_type in MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def float_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every float32 value that a graph computes or takes, moves apart, by name, in graph order."""
    values = [*graph.inputs, *(value for node in graph if node.op_type not in MOVES for value in node.outputs)]
    return {str(value.name): value for value in values if value.name and value.dtype == ir.DataType.FLOAT}


def record(
    model: ir.Model,
    batches: Iterable[NDArray[np.generic]],
    *,
    values: Collection[str] | None = None,
    into: Ranges | None = None,
    after_batch: Callable[[Ranges, int], None] = lambda found, images: None,
) -> Ranges:
    """Run the float32 `model` on `batches` and record its values.

    Args:
        model: with the types of its values inferred.
        batches: network input; each is run once for every `_VALUES_A_RUN` values. Several are held at a time where
            one run fetches all values.
        values: names of those to record; by default all that are float32.
        into: what was recorded of the same values before, to go on with.
        after_batch: told what is recorded so far, and the images of the batch.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph.
    """
    graph = model.graph
    known = float_values(graph)
    names = list(known) if values is None else [name for name in known if name in set(values)]
    axes = _row_axes(graph) if values is None else {}
    found = into or Ranges({name: Histogram() for name in names}, {name: RowStatistics() for name in axes})
    inputs = {str(value.name) for value in graph.inputs}
    fetched = [name for name in dict.fromkeys([*names, *axes]) if name not in inputs]
    parts = [fetched[start : start + _VALUES_A_RUN] for start in range(0, len(fetched), _VALUES_A_RUN)]
    sessions = [Session(model, outputs=part, stream=len(parts) == 1) for part in parts]

    def take(name: str, array: NDArray[np.float32], limit: int) -> None:
        if name in found.histograms:
            found.histograms[name].add(array, at_most=limit)
        if name in axes:
            found.rows[name].add(array, axes[name])

    with ThreadPoolExecutor(usable_cores()) as pool:

        def take_all(session: Session, arrays: Sequence[NDArray[np.float32]], limit: int) -> None:
            list(pool.map(take, session.outputs, arrays, [limit] * len(arrays)))

        runs = sessions[0].stream(batches) if len(sessions) == 1 else ((batch, None) for batch in batches)
        for batch, arrays in runs:
            limit = _SAMPLES_AN_IMAGE * len(batch)
            for name in inputs & set(names):
                found.histograms[name].add(np.asarray(batch, np.float32), at_most=limit)
            if arrays is not None:
                take_all(sessions[0], arrays, limit)
            else:
                for session in sessions:
                    take_all(session, session.run(batch), limit)
            found.images += len(batch)
            after_batch(found, len(batch))
    return found


def _row_axes(graph: ir.Graph) -> dict[str, int]:
    """The first axis of a row of each layer norm's input, by the input's name."""
    found: dict[str, int] = {}
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        if node.op_type not in NORMS or value is None or value.shape is None:
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        found[str(value.name)] = axis % len(value.shape)
    return found
