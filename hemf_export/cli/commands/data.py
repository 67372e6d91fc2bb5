"""`hemf-export data`: published data sets and class folders → train/, val/, test/ and split.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hemf_export.cli.options import PATH, Group, Seed, json_option
from hemf_export.files.errors import UsageError

if TYPE_CHECKING:  # what runs imports it when it is needed
    from hemf_export.train.datasets.preparation import Prepared


@click.group("data", cls=Group)
def command() -> None:
    """Divide images into training, validation and test, by the paper's splits or your own.

    The folder that is made has train/, val/ and test/ with a folder of images per class, and split.json, which records
    each image's split and SHA-256. The same seed gives the same split on any machine. Each subcommand takes --json.

    \b
    hemf-export data isic2018 DOWNLOAD -o DIR    the authors' exact split
    hemf-export data class-folders IMAGES -o DIR --split 0.7/0.1/0.2 --groups patients.csv --group-column patient
    hemf-export data check DIR                   is it still the split that its split.json lists?
    """


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """What every set takes."""
    for option in reversed((
        click.argument("source", type=PATH),
        click.option("-o", "--output", required=True, type=PATH, help="A new or empty folder."),
        click.option("--split", metavar="TRAIN/VAL/TEST",
                     help="Shares, stratified by class.  [default: see above]"),
        click.option("--seed", type=Seed(), help="[default: the authors' 123 for their split, else 0]"),
        click.option("--groups", type=PATH, metavar="FILE.csv",
                     help="Which group each image belongs to; no group is divided."),
        click.option("--group-column", metavar="NAME", help="The column of the groups: patient, lesion_id, …"),
        click.option("--image-column", metavar="NAME", default="image", show_default=True,
                     help="The column of the images' file names."),
        click.option("--copy", is_flag=True, help="Copy the images in place of linking them."),
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
@click.option("--fold", type=click.Choice(["1", "2"]), help="Which half is for training.  [default: 1]")
@_common
def kvasir(fold: str | None, **options: Any) -> None:
    """Kvasir: SOURCE holds the 8 class folders, or kvasir-dataset as a folder or ZIP file.

    By default halves for training and validation, by the authors' algorithm with the files sorted by name: the order of
    their file system is not known.
    """
    _run("kvasir", {**options, "fold": fold and int(fold)})


@command.command("covid-ct", short_help="COVID-CT, by the paper's shares or its own lists.")
@click.option("--published-split", "published", is_flag=True, help="The lists that come with it, in Data-split/.")
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
    """See that DIR holds the images that its split.json lists, byte for byte; ends with 3 where it doesn't."""
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.train.datasets import split_file

    record = split_file.verify(folder, ConsoleProgress())
    if as_json:
        console.print_json({"digest": record["digest"], "images": len(record["images"])}, indent=None)
        return
    console.result(
        f"{folder}: all {len(record['images'])} images are as split.json lists them, split {record['digest'][:16]}"
    )


def _run(data_set: Any, options: dict[str, Any]) -> None:
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.train.datasets.assignment import Request
    from hemf_export.train.datasets.groups import GroupColumn
    from hemf_export.train.datasets.preparation import prepare
    from hemf_export.train.datasets.splits import Shares

    as_json, text, path = options.pop("as_json"), options.pop("split"), options.pop("groups")
    column, image_column = options.pop("group_column"), options.pop("image_column")
    if (path is None) != (column is None):
        raise UsageError("--groups and --group-column go together.", "--groups patients.csv --group-column patient")
    request = Request(
        data_set=data_set,
        shares=None if text is None else Shares.parse(text),
        group_column=None if path is None else GroupColumn(path, column, image_column),
        **options,
    )
    made = prepare(request, ConsoleProgress())
    for note in made.notes:
        console.warn(note)
    if as_json:
        values = {**dataclasses.asdict(made), "output": str(made.output)}
        console.print_json(values)
        return
    _show(made)


def _show(made: Prepared) -> None:
    from hemf_export.cli import console
    from hemf_export.train.datasets.splits import SPLITS

    counts = made.counts
    used = [split for split in SPLITS if any(row[split] for row in counts.values())]
    rows = [(name, *(str(row[split]) for split in used), str(sum(row.values()))) for name, row in counts.items()]
    totals = [sum(row[split] for row in counts.values()) for split in used]
    rows.append(("all", *(str(total) for total in totals), str(sum(totals))))
    console.table(f"{made.output}: {_method(made)}", ("class", *used, "all"), rows)
    how = " and ".join(
        [f"{made.linked} hard links (a change in place changes both)"] * bool(made.linked)
        + [f"{made.copied} copies"] * bool(made.copied)
    )
    console.say(f"{how}; split.json records the split {made.digest[:16]}")
    console.next_command("hemf-export train", made.output, "-o", _run_folder(made.output))


def _method(made: Prepared) -> str:
    origin = made.origin
    if origin.method == "published":
        return "the split published with it"
    if origin.method == "folds":
        return f"fold {origin.fold} of 2, seed {origin.seed}"
    by = {"authors": "by the authors' algorithm", "stratified": "stratified by class"}.get(
        origin.method, f"by {origin.groups['column']}, none divided" if origin.groups else ""
    )
    return f"{origin.shares} {by}, seed {origin.seed}"


def _run_folder(output: Path) -> Path:
    return Path("runs", output.resolve().name)
