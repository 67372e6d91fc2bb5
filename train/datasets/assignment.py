"""Which image goes into which split: what a user asked for, and what the paper or the publishers decided.

Knows nothing of files that are written; see `train.datasets.preparation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemf_export.files import artifacts
from hemf_export.files.errors import UsageError
from hemf_export.images.folders import LabelledImages
from hemf_export.train.datasets import authors_split, groups, published_sets, splits
from hemf_export.train.datasets.groups import GroupColumn
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.datasets.split_file import Origin
from hemf_export.train.datasets.splits import Shares, Split

DEFAULT_SHARES = Shares.parse("0.7/0.1/0.2")


@dataclass(frozen=True)
class Request:
    """What is to be prepared.

    Args:
        data_set: a published set, or class folders of one's own.
        source: the downloaded set, or the folder of the class folders.
        output: a new or an empty folder.
        shares: None for the paper's, or DEFAULT_SHARES for class folders.
        seed: None for the authors' 123 where their algorithm splits, else 0.
        fold: 1 or 2, of Kvasir's halves.
        published: the lists that COVID-CT comes with.
        group_column: what must not be divided.
        copy: copies in place of hard links.
        skip_unreadable: leave out what doesn't decode, in place of refusing.

    Raises:
        UsageError: options that exclude each other.
    """

    data_set: Literal["isic2018", "kvasir", "covid-ct", "class-folders"]
    source: Path
    output: Path
    shares: Shares | None = None
    seed: int | None = None
    fold: Literal[1, 2] | None = None
    published: bool = False
    group_column: GroupColumn | None = None
    copy: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.fold is not None and (self.data_set != "kvasir" or self.shares or self.group_column):
            raise UsageError("A fold is one of the two halves of Kvasir; it goes without `split` and `groups`.")
        if self.published and (
            self.data_set != "covid-ct" or self.shares or self.group_column or self.seed is not None
        ):
            raise UsageError("The published split is that of COVID-CT; it goes without `split`, `groups` and `seed`.")

    @property
    def method(self) -> Literal["authors", "folds", "published", "stratified", "grouped"]:
        """How the images are divided."""
        if self.group_column is not None:
            return "grouped"
        if self.published:
            return "published"
        if self.shares is not None or self.data_set == "class-folders":
            return "stratified"
        return "folds" if self.data_set == "kvasir" else "authors"


@dataclass(frozen=True)
class Assignment:
    """The split of each image of a list.

    Args:
        assigned: one an image.
        used: the splits that get images.
        groups: the group of each image, where there are groups.
        origin: how it was decided, for the record.
        notes: for the user.
    """

    assigned: tuple[Split, ...]
    used: tuple[Split, ...]
    groups: tuple[str, ...] | None
    origin: Origin
    notes: list[str]


def assign(request: Request, images: LabelledImages) -> Assignment:
    """Decide on the split of each image.

    Raises:
        BadInputError: groups or published lists that don't fit the images.
    """
    paper = DEFAULT_SHARES if request.data_set == "class-folders" else SETS[request.data_set].shares
    shares = request.shares or paper
    method = request.method
    by_authors = method in ("authors", "folds")
    seed = request.seed if request.seed is not None else authors_split.SEED if by_authors else 0
    group_of: tuple[str, ...] | None = None
    notes: list[str] = []
    fold = (request.fold or 1) if method == "folds" else None
    if request.group_column is not None:
        group_of, notes = groups.read(request.group_column, images)
        assigned = splits.grouped(images, group_of, shares, seed)
    elif method == "published":
        assigned = published_sets.published_split(request.source, images)
    elif fold is not None:
        assigned = authors_split.fold(images, fold, seed=seed)
        notes = [
            "val is the other half, as in the paper: the best epoch is chosen on the images that it is judged on. "
            f"Train on `fold={3 - fold}` as well, and average."
        ]
    elif method == "authors":
        assigned = authors_split.authors(images, shares, seed=seed)
    else:
        assigned = splits.stratified(images, shares, seed)
    if by_authors and request.data_set != "isic2018":
        notes.append(
            "The authors' code shuffles the files in the order that their file system gave, which is not known: here "
            "they are sorted by name, so it is not their very split."
        )
    origin = Origin(
        data_set=request.data_set,
        source=str(request.source),
        method=method,
        shares=None if method == "published" else str(shares),
        seed=None if method == "published" else seed,
        fold=fold,
        order="rows of the CSV" if request.data_set == "isic2018" and by_authors else "names",
        groups=_record(request.group_column),
        classes=images.classes,
    )
    return Assignment(assigned, splits.SPLITS if method == "published" else shares.used, group_of, origin, notes)


def _record(column: GroupColumn | None) -> dict[str, str] | None:
    if column is None:
        return None
    return {
        "file": str(column.path),
        "sha256": artifacts.sha256(column.path),
        "column": column.column,
        "image_column": column.image_column,
    }
