"""`hemf-export inspect`: what a file of ours is, whether it is whole, and whether an engine may run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import PATH, Command, classes_option, json_option, reading_options

if TYPE_CHECKING:
    from hemf_export.inspection import Inspection


@click.command("inspect", cls=Command)
@click.argument("file", type=PATH)
@classes_option()
@reading_options
@click.option("--trust", is_flag=True, help="Take an engine without a manifest: nothing then shows whose it is.")
@click.option("--layers", "every_kernel", is_flag=True, help="Of an engine, list every kernel that was compiled.")
@json_option()
def command(
    file: Path, classes: tuple[str, ...] | None, trust: bool, every_kernel: bool, as_json: bool, reading: Reading
) -> None:
    """Show what FILE is: a checkpoint, an ONNX file or an engine.

    An engine is checked as before every run: manifest, hash, the plan's own header, TensorRT's version, the driver,
    compute capability. Nothing of it is run. Its kernels are shown as they were compiled, by block and by kind, with
    the bytes that they move and the types that they compute in; the manifest has them, so no GPU is needed. Ends with 1
    where the file is not what its manifest says, with 4 where it is for another TensorRT or GPU than this machine's.
    """
    from hemf_export import inspection
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    with ConsoleProgress().task(f"Reading {file.name}"):
        found = inspection.inspect(file, classes=classes, reading=reading, trust=trust, every_kernel=every_kernel)
    for note in found.notes:
        console.warn(note)
    if found.conflict is not None and as_json:
        raise found.conflict
    if as_json:
        console.print_json({"file": str(file), **found.values})
        return
    console.facts(str(file), found.facts)
    if found.checks:
        console.results.print()
        console.table("checks", ("check", "outcome", "found"), found.checks, words=(0, 1, 2))
    for table in found.tables:
        console.results.print()
        console.table(table.title, table.columns, table.rows, words=table.words)
    if found.conflict is not None:
        raise found.conflict
    _propose(found)


def _propose(found: Inspection) -> None:
    from hemf_export.cli import console, next_step

    if found.kind == "checkpoint":
        next_step.show(found.path)
    elif found.kind == "engine":
        console.next_command("hemf-export predict", found.path, "IMAGE…")
    elif "precision" in found.values:  # one of ours
        console.next_command("hemf-export bench", found.path)
    elif found.values["convertible"]:
        console.next_command("hemf-export calibrate", found.path, "--precision fp16 --images DATA")
