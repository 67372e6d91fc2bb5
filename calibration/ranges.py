"""Ranges of a graph's activations: a histogram of each on real images, and the part of it that int8 covers.

Recorded in one pass with bounded memory. Nodes that only move elements (Reshape, Transpose …) don't change the
distribution, and their outputs aren't recorded. For layer norms the variances of rows are recorded too: the squares of
a row's deviations can overflow or underflow in float16.

A histogram counts a value by its upper 16 bits: sign, exponent and the first 7 bits of its fraction (bfloat16,
truncated). So bins are relative, 128 per octave, from the smallest to the largest float, and need no known range; the
limits of float16, powers of two, are borders of bins.

Values outside the int8 range are clipped, those inside are rounded. Each calibration method determines one number: the
largest magnitude T that is kept (symmetric), or the factor by which the whole range is narrowed (asymmetric).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.session import Session
from hemf_export.files.processors import usable_cores

CODES = 1 << 16
_SIGN = 1 << 15
_OCTAVE = 128  # codes per exponent
_BIAS = 127
_NOT_FINITE = 255 * _OCTAVE  # codes of infinity and NaN start here
_FLOAT16_ZERO = -25  # values below 2**-25 round to zero in float16
MOVES = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity")
NORMS = ("LayerNormalization",)
_SAMPLES_AN_IMAGE = 1 << 15  # elements counted per value and image; extremes cover all elements
_VALUES_A_RUN = 1000  # outputs fetched at once: every value of a large graph would need too much memory
Method = Literal["max", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 0.9999
LEVELS = 127  # of symmetric int8, on each side of zero
_CANDIDATES = 64
_SMALLEST_SHARE = 2.0**-6  # of the largest magnitude: the lowest threshold of any method
_LINEAR_BINS = 2048  # of the histogram that the entropy method compares


class Histogram:
    """Histogram of values by sign and magnitude.

    Args:
        counts: count of each code; zeros by default.
        low: smallest finite value.
        high: largest finite value.
    """

    def __init__(
        self, counts: NDArray[np.int64] | None = None, low: float = float("inf"), high: float = float("-inf")
    ) -> None:
        self.counts = np.zeros(CODES, np.int64) if counts is None else counts
        self.low, self.high = low, high
        self.memo: dict[str, float] = {}  # results derived from the counts; cleared when they change

    def add(self, values: NDArray[np.float32], *, at_most: int | None = None) -> None:
        """Add a float32 array: its extremes exactly, and the distribution of its elements.

        With `at_most`, only that many evenly spaced elements are counted: enough for the shape of the distribution, in
        a third of the time for large arrays.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        self.memo.clear()
        sample = (
            flat if at_most is None or flat.size <= at_most else flat[:: _stride(flat.size // at_most + 1, flat.size)]
        )
        self.counts += np.bincount((sample.view(np.uint32) >> 16).astype(np.uint16), minlength=CODES)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    @property
    def not_finite(self) -> int:
        """Number of values that were infinite or NaN."""
        return int(self.counts[_NOT_FINITE:_SIGN].sum() + self.counts[_SIGN + _NOT_FINITE :].sum())

    @property
    def largest(self) -> float:
        """Largest magnitude of a finite value; 0 where there is none."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def smallest(self) -> float:
        """Smallest magnitude above zero that was counted, to a bin; infinite where there is none."""
        if 0 < self.low <= self.high:  # all positive: known exactly
            return self.low
        codes = np.flatnonzero(self._magnitudes()[1:_NOT_FINITE])
        return float(_centres(codes[:1] + 1)[0]) if len(codes) else float("inf")

    def flushed(self) -> float:
        """Share of the non-zero values that become zero in float16."""
        nonzero = self.total - self._zeros()
        below = self._magnitudes()[1 : (_BIAS + _FLOAT16_ZERO) * _OCTAVE].sum() if nonzero else 0
        return float(below / nonzero) if nonzero else 0.0

    def magnitudes(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the centres of the non-empty bins of |value|, ascending, and their counts; zero first, if counted."""
        counts = self._magnitudes()[:_NOT_FINITE]
        codes = np.flatnonzero(counts)
        return _centres(codes), counts[codes]

    def values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the centres of the non-empty bins of the values, ascending, and their counts."""
        codes = np.flatnonzero(self.counts)
        codes = codes[codes % _SIGN < _NOT_FINITE]
        centres = np.where(codes >= _SIGN, -1.0, 1.0) * _centres(codes % _SIGN)
        order = np.argsort(centres, kind="stable")
        return centres[order], self.counts[codes[order]]

    def quantile(self, share: float) -> float:
        """Return the magnitude that this share of the values doesn't exceed, to a bin."""
        centres, counts = self.magnitudes()
        if not len(centres):
            return 0.0
        reached = np.searchsorted(np.cumsum(counts), share * counts.sum())
        return float(centres[min(int(reached), len(centres) - 1)])

    def root_mean_square(self) -> float:
        """Return the root mean square of all finite values, including zeros."""
        centres, counts = self.magnitudes()
        return float(np.sqrt((counts * centres**2).sum() / counts.sum())) if len(counts) else 0.0

    def _magnitudes(self) -> NDArray[np.int64]:
        return self.counts[:_SIGN] + self.counts[_SIGN:]

    def _zeros(self) -> int:
        return int(self.counts[0] + self.counts[_SIGN])


def _stride(least: int, size: int) -> int:
    """Return the next stride that is coprime to an array's size, so that it samples every channel and row."""
    while math.gcd(least, size) > 1:
        least += 1
    return least


def _centres(codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the centre of each bin of magnitudes; zero for the first one."""
    lower = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    upper = (((codes.astype(np.uint32) + 1) << 16) - 1).view(np.float32).astype(np.float64)
    return np.where(codes == 0, 0.0, (lower + upper) / 2)


@dataclass
class RowStatistics:
    """Range of the variances of the rows that a layer norm normalizes.

    Args:
        low: smallest variance.
        high: largest variance.
    """

    low: float = float("inf")
    high: float = 0.0

    def add(self, values: NDArray[np.float32], axis: int) -> None:
        """Add a batch; a row spans `axis` and all axes after it."""
        rows = values.reshape(*values.shape[:axis], -1)
        variances = rows.var(-1)
        self.low, self.high = min(self.low, float(variances.min())), max(self.high, float(variances.max()))


@dataclass
class Ranges:
    """Statistics that one pass recorded.

    Args:
        histograms: histogram of each value, by name.
        rows: row statistics of the inputs of layer norms, by name.
        images: number of images recorded.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    rows: dict[str, RowStatistics] = field(default_factory=dict)
    images: int = 0


def source_of(value: ir.Value) -> ir.Value:
    """Return the value that `value` has its elements from, before nodes that only move them."""
    while (node := value.producer()) is not None and node.op_type in MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def float_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return every float32 value of a graph by name, in graph order, without outputs of mere moves of elements."""
    values = [*graph.inputs, *(value for node in graph if node.op_type not in MOVES for value in node.outputs)]
    return {str(value.name): value for value in values if value.name and value.dtype == ir.DataType.FLOAT}


def record(
    model: ir.Model,
    batches: Iterable[NDArray[np.generic]],
    *,
    values: Collection[str] | None = None,
    into: Ranges | None = None,
    after_batch: Callable[[Ranges, int], None] = lambda recorded, images: None,
) -> Ranges:
    """Run the float32 `model` on `batches` and record its values.

    Args:
        model: with the types of its values inferred.
        batches: network input; each is run once per `_VALUES_A_RUN` values. Several are held at a time if one run
            fetches all values.
        values: names of the values to record; None for all float32 ones.
        into: earlier statistics of the same values to add to; None to start empty.
        after_batch: called after each batch with the statistics so far and the number of images in the batch.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph.
    """
    graph = model.graph
    known = float_values(graph)
    names = list(known) if values is None else [name for name in known if name in set(values)]
    axes = _row_axes(graph) if values is None else {}
    recorded = into or Ranges({name: Histogram() for name in names}, {name: RowStatistics() for name in axes})
    inputs = {str(value.name) for value in graph.inputs}
    fetched = [name for name in dict.fromkeys([*names, *axes]) if name not in inputs]
    parts = [fetched[start : start + _VALUES_A_RUN] for start in range(0, len(fetched), _VALUES_A_RUN)]
    sessions = [Session(model, outputs=part, stream=len(parts) == 1) for part in parts]

    def take(name: str, array: NDArray[np.float32], limit: int) -> None:
        if name in recorded.histograms:
            recorded.histograms[name].add(array, at_most=limit)
        if name in axes:
            recorded.rows[name].add(array, axes[name])

    with ThreadPoolExecutor(usable_cores()) as pool:

        def take_all(session: Session, arrays: Sequence[NDArray[np.float32]], limit: int) -> None:
            list(pool.map(take, session.outputs, arrays, [limit] * len(arrays)))

        runs = sessions[0].stream(batches) if len(sessions) == 1 else ((batch, None) for batch in batches)
        for batch, arrays in runs:
            limit = _SAMPLES_AN_IMAGE * len(batch)
            for name in inputs & set(names):
                recorded.histograms[name].add(np.asarray(batch, np.float32), at_most=limit)
            if arrays is not None:
                take_all(sessions[0], arrays, limit)
            else:
                for session in sessions:
                    take_all(session, session.run(batch), limit)
            recorded.images += len(batch)
            after_batch(recorded, len(batch))
    return recorded


def _row_axes(graph: ir.Graph) -> dict[str, int]:
    """Return the first axis of a row of each layer norm's input, by the input's name."""
    axes: dict[str, int] = {}
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        if node.op_type not in NORMS or value is None or value.shape is None:
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        axes[str(value.name)] = axis % len(value.shape)
    return axes


def threshold(histogram: Histogram, method: Method) -> float:
    """Return the largest magnitude that a symmetric int8 range keeps; 0 where all values are zero.

    - max: the largest magnitude recorded.
    - percentile: the magnitude that 99.99 % of the values don't exceed.
    - mse: least mean squared error of rounding and clipping together.
    - entropy: least Kullback-Leibler divergence of the clipped and rounded distribution from the true one
      (Migacz, 8-bit inference with TensorRT, GTC 2017).
    """
    if method not in histogram.memo:
        histogram.memo[method] = _threshold(histogram, method)
    return histogram.memo[method]


def _threshold(histogram: Histogram, method: Method) -> float:
    largest = histogram.largest
    if largest == 0:
        return 0.0
    if method == "max":
        return largest
    if method == "percentile":
        return min(largest, histogram.quantile(PERCENTILE)) or largest
    candidates = largest * np.geomspace(_SMALLEST_SHARE, 1.0, _CANDIDATES)
    centres, counts = histogram.magnitudes()
    if not centres.any():  # only zeros were sampled, which gives no threshold
        return largest
    if method == "mse":
        errors = [_squared_error(centres, counts, candidate) for candidate in candidates]
    else:
        linear = _linear(histogram, largest)
        errors = [_divergence(linear, candidate / largest) for candidate in candidates]
    return float(candidates[int(np.argmin(errors))])


def interval(histogram: Histogram, method: Method) -> tuple[float, float]:
    """Return the interval that an asymmetric 8-bit range keeps; it always contains zero, which must be exact."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low >= high:
        return 0.0, 0.0
    kept = threshold(histogram, method)
    return max(low, -kept), min(high, kept)


def _squared_error(centres: NDArray[np.float64], counts: NDArray[np.int64], kept: float) -> float:
    step = kept / LEVELS
    rounded = (np.round(centres / step) * step - centres) ** 2
    # Where bins aren't much finer than a step, their centres don't give the rounding error: it is step²/12 on average.
    coarse = centres / 128 > step / 4
    inside = np.where(coarse, step**2 / 12, rounded)
    return float((counts * np.where(centres <= kept, inside, (centres - kept) ** 2)).sum())


def _linear(histogram: Histogram, largest: float) -> NDArray[np.float64]:
    """Return counts of |value| in equal bins up to the largest; wider relative bins are spread over several."""
    centres, counts = histogram.magnitudes()
    positive = centres > 0  # as usual for this method: zeros are exact in any range
    centres, counts = centres[positive], counts[positive].astype(np.float64)
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [largest]])
    edges = np.maximum.accumulate(np.minimum(edges, largest))
    return np.diff(np.interp(np.linspace(0, largest, _LINEAR_BINS + 1), edges, cumulated))


def _divergence(linear: NDArray[np.float64], share: float) -> float:
    bins = max(LEVELS + 1, round(share * len(linear)))
    if bins >= len(linear):
        bins = len(linear)
    kept = linear[:bins]
    true = kept.copy()
    true[-1] += linear[bins:].sum()
    # Each level spreads its count evenly over its non-empty bins.
    level = np.minimum(np.arange(bins) * (LEVELS + 1) // bins, LEVELS)
    filled = kept > 0
    sums = np.bincount(level, kept, LEVELS + 1)
    numbers = np.bincount(level, filled, LEVELS + 1)
    coarse = np.where(filled, (sums / np.maximum(numbers, 1))[level], 0.0)
    if not coarse.sum() or not true.sum():
        return float("inf")
    true, coarse = true / true.sum(), coarse / coarse.sum()
    both = true > 0
    return float((true[both] * np.log(true[both] / np.maximum(coarse[both], 1e-12))).sum())
