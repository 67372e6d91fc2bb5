"""`hemf-export data`: published data sets and class folders → train/, val/, test/ and split.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import PATH, Group, Seed, json_option


@click.group("data", cls=Group)
def command() -> None:
    """Divide images into training, validation and test, by the paper's splits or your own.

    The output folder has train/, val/ and test/ with a folder of images per class, and split.json, which records
    each image's split and SHA-256. The same seed gives the same split on any machine. Each subcommand takes --json.

    \b
    hemf-export data isic2018 DOWNLOAD -o DIR    the authors' exact split
    hemf-export data class-folders IMAGES -o DIR --split 0.7/0.1/0.2 --groups patients.csv --group-column patient
    hemf-export data check DIR                   is it still the split that its split.json lists?
    """


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that all data sets share."""
    for option in reversed((
        click.argument("source", type=PATH),
        click.option("-o", "--output", required=True, type=PATH, help="A new or empty folder."),
        click.option("--split", metavar="TRAIN/VAL/TEST",
                     help="Shares, stratified by class.  [default: see above]"),
        click.option("--seed", type=Seed(), help="[default: the authors' 123 for their split, else 0]"),
        click.option("--groups", type=PATH, metavar="FILE.csv",
                     help="Group of each image, such as its patient; no group is divided."),
        click.option("--group-column", metavar="NAME", help="Column of the groups: patient, lesion_id, …"),
        click.option("--image-column", metavar="NAME", default="image", show_default=True,
                     help="Column of the images' file names."),
        click.option("--copy", is_flag=True, help="Copy the images instead of linking them."),
        click.option("--skip-unreadable", is_flag=True, help="Leave out images that don't decode, and count them."),
        json_option(),
    )):  # fmt: skip
        function = option(function)
    return function


@command.command("isic2018", short_help="ISIC2018 task 3, by the authors' exact split.")
@_common
def isic2018(**options: Any) -> None:
    """ISIC2018 task 3: SOURCE holds ISIC2018_Task3_Training_Input and …_GroundTruth, as folders or ZIP files.

    By default the authors' exact split: 0.6/0.1/0.3, by their algorithm and seed, in the order of the CSV. It divides
    lesions that have several images; --groups ISIC2018_Task3_Training_LesionGroupings.csv --group-column lesion_id
    does not.
    """
    _run("isic2018", options)


@command.command("kvasir", short_help="Kvasir, in two folds.")
@click.option("--fold", type=click.Choice(["1", "2"]), help="Half that is used for training.  [default: 1]")
@_common
def kvasir(fold: str | None, **options: Any) -> None:
    """Kvasir: SOURCE holds the 8 class folders, or kvasir-dataset as a folder or ZIP file.

    By default halves for training and validation, by the authors' algorithm with the files sorted by name: the order of
    their file system is not known.
    """
    _run("kvasir", {**options, "fold": fold and int(fold)})


@command.command("covid-ct", short_help="COVID-CT, by the paper's shares or its own lists.")
@click.option("--published-split", "published", is_flag=True, help="Use the lists that come with it, in Data-split/.")
@_common
def covid_ct(**options: Any) -> None:
    """COVID-CT: SOURCE is the repository UCSD-AI4H/COVID-CT, with CT_COVID and CT_NonCOVID as folders or ZIP files.

    By default 0.6/0.15/0.25, by the authors' algorithm with the files sorted by name: the order of their file system is
    not known.
    """
    _run("covid-ct", options)


@command.command("class-folders", short_help="Any images in a folder per class.")
@_common
def class_folders(**options: Any) -> None:
    """Any images: SOURCE holds a folder of images per class.

    By default 0.7/0.1/0.2, stratified by class.
    """
    _run("class-folders", options)


@command.command("check", short_help="Compare a prepared folder with its split.json.")
@click.argument("folder", metavar="DIR", type=PATH)
@json_option()
def check(folder: Path, as_json: bool) -> None:
    """Check that DIR holds the images that its split.json lists, byte for byte; ends with 3 if it doesn't."""
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    checked = hemf_export.check_split(folder, progress=ConsoleProgress())
    if as_json:
        console.print_json(checked.to_dict(), indent=None)
        return
    console.result(f"{folder}: all {checked.images} images are as split.json lists them, split {checked.digest[:16]}")


def _run(data_set: Any, options: dict[str, Any]) -> None:
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    as_json = options.pop("as_json")
    data = hemf_export.split_data(data_set=data_set, progress=ConsoleProgress(), **options)
    for note in data.notes:
        console.warn(note)
    if as_json:
        console.print_json(data.to_dict())
        return
    _show(data)


def _show(data: hemf_export.DataSplit) -> None:
    from hemf_export.cli import console

    counts, linked, copied = data.counts, data.values["linked"], data.values["copied"]
    used = [split for split in ("train", "val", "test") if any(row[split] for row in counts.values())]
    rows = [(name, *(str(row[split]) for split in used), str(sum(row.values()))) for name, row in counts.items()]
    totals = [sum(row[split] for row in counts.values()) for split in used]
    rows.append(("all", *(str(total) for total in totals), str(sum(totals))))
    console.table(f"{data.path}: {_method(data.values['origin'])}", ("class", *used, "all"), rows)
    how = " and ".join(
        [f"{linked} hard links (editing a file changes the original too)"] * bool(linked)
        + [f"{copied} copies"] * bool(copied)
    )
    console.say(f"{how}; split.json records the split {data.digest[:16]}")
    console.next_command("hemf-export train", data.path, "-o", _run_folder(data.path))


def _method(origin: Mapping[str, Any]) -> str:
    if origin["method"] == "published":
        return "the split published with it"
    if origin["method"] == "folds":
        return f"fold {origin['fold']} of 2, seed {origin['seed']}"
    by = {"authors": "by the authors' algorithm", "stratified": "stratified by class"}.get(
        origin["method"], f"by {origin['groups']['column']}, none divided" if origin["groups"] else ""
    )
    return f"{origin['shares']} {by}, seed {origin['seed']}"


def _run_folder(output: Path) -> Path:
    return Path("runs", output.resolve().name)
