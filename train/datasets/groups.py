"""CSV files that assign each image to a group that must not be divided: a patient, a lesion."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hemf_export.files import names
from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.images.folders import LabelledImages, listed

_SEPARATORS = (",", ";", "\t")  # spreadsheets write semicolons in locales with decimal commas


@dataclass(frozen=True)
class GroupColumn:
    """The CSV file and columns that hold the groups.

    Args:
        path: a CSV file with a header, UTF-8, separated by commas, semicolons or tabs.
        column: name of the column of groups.
        image_column: name of the column of images: `name.jpg`, `name`, or `class/name.jpg` if names alone are not
            unique. Names match those on disk in any Unicode normalization (see `files.names`).
    """

    path: Path
    column: str
    image_column: str = "image"


def rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """Read some columns of a CSV file: for each row the number of its last line, and its cells.

    Raises:
        BadInputError: the file is not CSV in UTF-8, a column is missing, or a row is too short.
    """
    if not path.is_file():
        raise BadInputError(f"{path} is not a file.", "A CSV file is needed.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header_line = file.readline()
            separator = max(_SEPARATORS, key=header_line.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except OSError as error:
        raise BadInputError(f"Can't read {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} is not a CSV file in UTF-8: {error}.", "Save the table as CSV, UTF-8.") from error
    header = lines[0][1] if lines else []
    places: list[int] = []
    for column in columns:
        place = names.place_of(column, header)
        if place is None:
            raise BadInputError(
                f"{path} has no column {column!r}.",
                did_you_mean(column, header) if header else "Its first line must name the columns.",
            )
        places.append(place)
    for number, row in lines[1:]:
        if len(row) <= max(places):
            raise BadInputError(f"{path}, line {number}: {len(row)} cells; the header has {len(header)}.")
    return [(number, [row[place] for place in places]) for number, row in lines[1:]]


def read(column: GroupColumn, images: LabelledImages) -> tuple[tuple[str, ...], list[str]]:
    """Read the group of each image, and notes for the user.

    Raises:
        BadInputError: the file can't be read, or an image has no group, several, or shares its row with another image.
    """
    group_by_name: dict[str, str] = {}
    names_by_key: dict[str, list[str]] = {}  # image key → the names in the file that have it
    for number, (image, cell) in rows(column.path, (column.image_column, column.column)):
        group = names.composed(cell)  # normalized, so that one patient typed on two systems is one group
        if not group:
            raise BadInputError(
                f"{column.path}, line {number}: {image} has no {column.column}.", "Each image needs a group."
            )
        if image not in group_by_name:
            names_by_key.setdefault(names.image_key(image), []).append(image)
        if group_by_name.setdefault(image, group) != group:
            raise BadInputError(
                f"{column.path}, line {number}: {image} is in {group_by_name[image]!r} and in {group!r}."
            )
    owners: dict[str, int] = {}
    used_names: set[str] = set()
    groups: list[str] = []
    missing: list[str] = []
    for index, path in enumerate(images.paths):
        assert images.labels is not None
        place = str(PurePosixPath(images.classes[images.labels[index]], path.name))
        known = (place, path.name, path.stem)
        matching = next(([name] for name in known if name in group_by_name), None) or next(
            (names_by_key[key] for key in map(names.image_key, known) if key in names_by_key), None
        )
        if matching is None:
            missing.append(place)
            continue
        if len({group_by_name[name] for name in matching}) > 1:
            raise BadInputError(
                f"{column.path}: {path} may be any of {', '.join(map(ascii, matching))}, of several groups.",
                f"Write {place} in the column {column.image_column}.",
            )
        row_name = matching[0]
        used_names.update(matching)
        if (other := owners.setdefault(row_name, index)) != index:
            raise BadInputError(
                f"{column.path}: {row_name!r} may be {images.paths[other]} or {path}.",
                f"Write {place} in the column {column.image_column}.",
            )
        groups.append(group_by_name[row_name])
    if missing:
        raise BadInputError(
            listed(f"{len(missing)} of {len(images)} images are not in {column.path}", missing),
            f"Its column {column.image_column!r} must have each image's file name.",
        )
    spare = len(group_by_name) - len(used_names)
    return tuple(groups), [f"{spare} rows of {column.path} are of images that are not here."] if spare else []
