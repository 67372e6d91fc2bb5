"""Reserve the outputs of a function: locked while it works, and checked to be writable before anything long runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hemf_export.api.results import PathLike


@contextmanager
def reserved(outputs: Iterable[PathLike | None], sources: Iterable[PathLike | None]) -> Iterator[None]:
    """Lock output files while they are made.

    Args:
        outputs: files to be written; None for those not requested.
        sources: files that they are made from, which must not be overwritten.

    Raises:
        BadInputError: an output that can't be written, that is a source, or that another process is writing.
        UsageError: a file that is named for two outputs.
    """
    from hemf_export.files import artifacts, locks

    places = [Path(output) for output in outputs if output is not None]
    with locks.owned(*places):
        artifacts.check_outputs(places, [Path(source) for source in sources if source is not None])
        yield
