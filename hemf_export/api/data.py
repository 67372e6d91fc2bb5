"""Split images into train/, val/ and test/: the paper's splits of published data sets, or a new split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hemf_export.api.results import PathLike, Shown
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress


@dataclass(frozen=True)
class DataSplit(Shown):
    """Data folder: train/, val/ and test/ with a folder of images per class, and split.json.

    Args:
        path: the folder.
        values: record of the split in plain types: `origin`, `counts` by class and split, `digest`, `linked`, `copied`.
        notes: remarks for the user.
    """

    path: Path
    values: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images by class and split."""
        return dict(self.values["counts"])

    @property
    def digest(self) -> str:
        """SHA-256 of the split; reproducible on any machine."""
        return str(self.values["digest"])

    def to_dict(self) -> dict[str, Any]:
        """Convert the record of the split to plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        rows = {name: ", ".join(f"{split} {n}" for split, n in row.items()) for name, row in self.counts.items()}
        return {"folder": str(self.path), **rows}


@dataclass(frozen=True)
class CheckedSplit(Shown):
    """Data folder that matches its split.json.

    Args:
        path: the folder.
        digest: SHA-256 of the split.
        images: number of images.
    """

    path: Path
    digest: str
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return {"digest": self.digest, "images": self.images}

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"folder": str(self.path), "images": str(self.images), "split": self.digest}


def split_data(
    source: PathLike, output: PathLike, *,
    data_set: Literal["isic2018", "kvasir", "covid-ct", "class-folders"] = "class-folders", split: str | None = None,
    seed: int | None = None, fold: Literal[1, 2] | None = None, published: bool = False,
    groups: PathLike | None = None, group_column: str | None = None, image_column: str = "image", copy: bool = False,
    skip_unreadable: bool = False, progress: Progress = SILENT,
) -> DataSplit:  # fmt: skip
    """Divide images into training, validation and test. The same seed gives the same split on any machine.

    Args:
        source: folder of class folders, or a published data set as downloaded.
        output: a new or an empty folder.
        data_set: kind of the source: class folders, or a published data set, for which the paper's split is used.
        split: shares "TRAIN/VAL/TEST", stratified by class; None for the paper's, or "0.7/0.1/0.2" for class folders.
        seed: random seed of the split; None for the authors' 123 where their algorithm splits, else 0.
        fold: which half of Kvasir is for training; None for 1.
        published: use the lists that come with COVID-CT.
        groups: CSV file with the group of each image; no group is divided.
        group_column: its column of groups, such as "patient" or "lesion_id".
        image_column: its column of image file names.
        copy: copy the images instead of linking them.
        skip_unreadable: leave out images that don't decode, and count them.
        progress: receives the number of images done.

    Raises:
        UsageError: options that exclude each other.
        BadInputError: another kind of source, unreadable images, too few images of a class, or an output that isn't
            empty. Then nothing is written.

    Examples:
        >>> divided = hemf_export.split_data("data/train", "divided", split="0.6/0.2/0.2")
        >>> sorted(divided.counts)
        ['bright', 'dark', 'striped']
    """
    from hemf_export.train.datasets.groups import GroupColumn
    from hemf_export.train.datasets.preparation import Request, prepare
    from hemf_export.train.datasets.splits import Shares

    if (groups is None) != (group_column is None):
        raise UsageError("`groups` and `group_column` go together.", "`groups='patients.csv', group_column='patient'`")
    column = None
    if groups is not None and group_column is not None:
        column = GroupColumn(Path(groups), group_column, image_column)
    request = Request(
        data_set=data_set, source=Path(source), output=Path(output),
        shares=None if split is None else Shares.parse(split), seed=seed, fold=fold,
        published=published, group_column=column, copy=copy, skip_unreadable=skip_unreadable,
    )  # fmt: skip
    prepared = prepare(request, progress)
    values = {**dataclasses.asdict(prepared), "output": str(prepared.output)}
    return DataSplit(prepared.output, values, tuple(prepared.notes))


def check_split(data: PathLike, *, progress: Progress = SILENT) -> CheckedSplit:
    """Check that a data folder holds the images that its split.json lists, byte for byte.

    Args:
        data: a folder made by `split_data`.
        progress: receives the number of images done.

    Raises:
        BadInputError: no split.json, or a changed one.
        CheckFailedError: images that are missing, changed, or not listed.

    Examples:
        >>> checked = hemf_export.check_split("divided")
        >>> checked.images
        48
    """
    from hemf_export.train.datasets import split_file

    record = split_file.verify(Path(data), progress)
    return CheckedSplit(Path(data), record["digest"], len(record["images"]))
