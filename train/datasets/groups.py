"""A CSV file that says which patient, lesion or other group each image belongs to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hemf_export.files import names
from hemf_export.files.errors import BadInputError, did_you_mean
from hemf_export.images.folders import LabelledImages, listed

_SEPARATORS = (",", ";", "\t")  # programs for tables write the second where the comma stands in decimals


@dataclass(frozen=True)
class GroupColumn:
    """Where the groups are written.

    Args:
        path: a CSV file with a header, UTF-8, separated by commas, semicolons or tabs.
        column: the column of the groups.
        image_column: the column of the images: `name.jpg`, `name`, or `class/name.jpg` where names alone are not
            unique. Names meet those on disk whatever system wrote them (see `files.names`).
    """

    path: Path
    column: str
    image_column: str = "image"


def rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """The cells of some columns of a CSV file, with the number of the line that each row ends on.

    Raises:
        BadInputError: no CSV file in UTF-8, a column that isn't there, or a row that is too short.
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
            raise BadInputError(f"{path} has no column {column!r}.", did_you_mean(column, header) if header else None)
        places.append(place)
    for number, row in lines[1:]:
        if len(row) <= max(places):
            raise BadInputError(f"{path}, line {number}: {len(row)} cells; the header has {len(header)}.")
    return [(number, [row[place] for place in places]) for number, row in lines[1:]]


def read(column: GroupColumn, images: LabelledImages) -> tuple[tuple[str, ...], list[str]]:
    """The group of each image, and notes for the user.

    Raises:
        BadInputError: the file can't be read, or an image has no group, two, or shares its row with another image.
    """
    found: dict[str, str] = {}
    written: dict[str, list[str]] = {}  # key → the names that have it
    for number, (image, cell) in rows(column.path, (column.image_column, column.column)):
        group = names.composed(cell)  # or one patient, typed on two systems, were two
        if not group:
            raise BadInputError(
                f"{column.path}, line {number}: {image} has no {column.column}.", "Each image needs a group."
            )
        if image not in found:
            written.setdefault(names.image_key(image), []).append(image)
        if found.setdefault(image, group) != group:
            raise BadInputError(f"{column.path}, line {number}: {image} is in {found[image]!r} and in {group!r}.")
    owners: dict[str, int] = {}
    used: set[str] = set()
    groups: list[str] = []
    missing: list[str] = []
    for index, path in enumerate(images.paths):
        assert images.labels is not None
        place = str(PurePosixPath(images.classes[images.labels[index]], path.name))
        known = (place, path.name, path.stem)
        rows_of = next(([name] for name in known if name in found), None) or next(
            (written[key] for key in map(names.image_key, known) if key in written), None
        )
        if rows_of is None:
            missing.append(place)
            continue
        if len({found[name] for name in rows_of}) > 1:
            raise BadInputError(
                f"{column.path}: {path} may be any of {', '.join(map(ascii, rows_of))}, of several groups.",
                f"Write {place} in the column {column.image_column}.",
            )
        named = rows_of[0]
        used.update(rows_of)
        if (other := owners.setdefault(named, index)) != index:
            raise BadInputError(
                f"{column.path}: {named!r} may be {images.paths[other]} or {path}.",
                f"Write {place} in the column {column.image_column}.",
            )
        groups.append(found[named])
    if missing:
        raise BadInputError(
            listed(f"{len(missing)} of {len(images)} images are not in {column.path}", missing),
            f"Its column {column.image_column!r} must have each image's file name.",
        )
    spare = len(found) - len(used)
    return tuple(groups), [f"{spare} rows of {column.path} are of images that are not here."] if spare else []
