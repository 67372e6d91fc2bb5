"""Cache of a calibration's results on disk: a second run, or one after `kill -9`, continues from them.

Keys cover everything that a result depends on: the bytes of graph and images, the options, the versions. A file that
can't be read is reported and computed again. Nothing else reads these files, and any of them may be deleted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.ranges import CODES, Histogram, Ranges, RowStatistics, record
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import IDLE, Task

FORMAT = 4
RECORD_BATCH = 2  # images whose values are held at a time, for several batches
LIMIT_BYTES = 1 << 30  # of all files together; the oldest are deleted
_SAVE_EVERY_S = 10.0
_VERSIONS = ("hemf-export", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx-ir")


class Cache:
    """Cache of results in a folder.

    Args:
        folder: created if needed; None for no cache.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.notes: list[str] = []
        if folder is not None:
            try:
                artifacts.check_folder(folder)
            except BadInputError as error:
                self.notes.append(f"Nothing is cached: {error.message}")
                self.folder = None

    def path(self, kind: str, **key: Any) -> Path | None:
        """Return the path of the result for a key; None without a cache."""
        if self.folder is None:
            return None
        versions = {name: version for name, version in artifacts.versions().items() if name in _VERSIONS}
        text = json.dumps({"format": FORMAT, "kind": kind, "versions": versions, **key}, sort_keys=True)
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def read(self, path: Path | None) -> dict[str, NDArray[Any]] | None:
        """Read the arrays at `path`; None where there are none or they can't be read, which is noted."""
        if path is None or not path.exists():
            return None
        try:
            # From memory: numpy leaves the file open where the archive is truncated.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # noqa: BLE001 - numpy and zipfile raise whatever a damaged file makes them
            self.notes.append(f"The cached {path.name} is damaged ({type(error).__name__}): it is made again.")
            return None
        with suppress(OSError):  # another user's, or deleted by now: the time only shows which are the oldest
            os.utime(path)
        return arrays

    def write(self, path: Path | None, arrays: dict[str, NDArray[Any]]) -> None:
        """Write arrays to `path`; a failed write is noted, not an error."""
        if path is None or self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            artifacts.write_bytes(path, buffer.getbuffer())
        except BadInputError as error:
            self.notes.append(f"Nothing more is cached: {error.message}")
            self.folder = None
            return
        with suppress(OSError):  # another run may delete files at the same time
            files = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
            sizes = np.cumsum([file.stat().st_size for file in files])
            for file, size in zip(files, sizes, strict=True):
                if size > LIMIT_BYTES and file != path:
                    file.unlink(missing_ok=True)


def ranges(
    cache: Cache,
    model: ir.Model,
    graph_sha256: str,
    images: ImageSet,
    *,
    values: Collection[str] | None = None,
    batch: int = RECORD_BATCH,
    task: Task = IDLE,
) -> Ranges:
    """Run `calibration.ranges.record` over all of `images`, from the cache as far as it goes, saved on the way."""
    key = {
        "graph": graph_sha256,
        "images": images.content_sha256(),
        "values": None if values is None else sorted(values),
    }
    path = cache.path("ranges", **key)
    recorded = _unpacked(cache, cache.read(path))
    done = 0 if recorded is None else recorded.images
    if done >= len(images):
        task.advance(done)
        assert recorded is not None
        return recorded
    saved = time.monotonic()

    def after_batch(recorded: Ranges, count: int) -> None:
        nonlocal saved
        task.advance(count)
        if time.monotonic() - saved > _SAVE_EVERY_S:
            cache.write(path, _packed(recorded))
            saved = time.monotonic()

    task.advance(done)
    rest = images.only(range(done, len(images))) if done else images
    recorded = record(model, rest.batches(batch), values=values, into=recorded, after_batch=after_batch)
    cache.write(path, _packed(recorded))
    return recorded


def _packed(recorded: Ranges) -> dict[str, NDArray[Any]]:
    codes = [np.flatnonzero(histogram.counts) for histogram in recorded.histograms.values()]
    counts = [histogram.counts[own] for histogram, own in zip(recorded.histograms.values(), codes, strict=True)]
    return {
        "names": np.array(json.dumps(list(recorded.histograms))),
        "lengths": np.array([len(own) for own in codes], np.int64),
        "codes": np.concatenate([*codes, np.zeros(0, np.int64)]).astype(np.uint16),
        "counts": np.concatenate([*counts, np.zeros(0, np.int64)]),
        "extremes": np.array([(each.low, each.high) for each in recorded.histograms.values()], np.float64),
        "rows": np.array(json.dumps({name: [row.low, row.high] for name, row in recorded.rows.items()})),
        "images": np.array(recorded.images),
    }


def _unpacked(cache: Cache, arrays: dict[str, NDArray[Any]] | None) -> Ranges | None:
    if arrays is None:
        return None
    try:
        recorded = Ranges(images=int(arrays["images"]))
        ends = np.cumsum(arrays["lengths"])
        for name, end, length, (low, high) in zip(
            json.loads(str(arrays["names"])), ends, arrays["lengths"], arrays["extremes"], strict=True
        ):
            counts = np.zeros(CODES, np.int64)
            counts[arrays["codes"][end - length : end]] = arrays["counts"][end - length : end]
            recorded.histograms[name] = Histogram(counts, float(low), float(high))
        recorded.rows = {name: RowStatistics(*pair) for name, pair in json.loads(str(arrays["rows"])).items()}
    except (KeyError, ValueError, TypeError) as error:
        cache.notes.append(f"Cached ranges are damaged ({type(error).__name__}): they are made again.")
        return None
    return recorded


def packed_arrays(groups: Mapping[tuple[str, int], Sequence[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Pack groups of arrays, each with a name and a number as its key, for `Cache.write`."""
    arrays: dict[str, NDArray[Any]] = {"names": np.array(json.dumps([[*key, len(own)] for key, own in groups.items()]))}
    for index, own in enumerate(groups.values()):
        arrays |= {f"{index}_{place}": array for place, array in enumerate(own)}
    return arrays


def unpacked_arrays(arrays: dict[str, NDArray[Any]] | None) -> dict[tuple[str, int], tuple[NDArray[Any], ...]] | None:
    """Unpack the groups of `packed_arrays`; None where there are none."""
    if arrays is None or "names" not in arrays:
        return None
    return {
        (str(name), int(number)): tuple(arrays[f"{index}_{place}"] for place in range(count))
        for index, (name, number, count) in enumerate(json.loads(str(arrays["names"])))
    }
