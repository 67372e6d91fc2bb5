"""`hemf-export inspect`: what a file of ours is, whether it is whole, and whether an engine may run here."""

from __future__ import annotations

from pathlib import Path

import click

from hemf.reading import Reading
from hemf_export.commands.checkpoint_options import reading_options


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--classes", help="Class names a,b,c for a checkpoint that has none.")
@reading_options
@click.option("--trust", is_flag=True, help="Take an engine without a manifest: nothing then shows whose it is.")
@click.option("--layers", "every_kernel", is_flag=True, help="Of an engine, list every kernel that was compiled.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(file: Path, classes: str | None, trust: bool, every_kernel: bool, as_json: bool, reading: Reading) -> None:
    """Show what FILE is: a checkpoint, an ONNX file or an engine.

    An engine is checked as before every run: manifest, hash, the plan's own header, TensorRT's version, the driver,
    compute capability. Nothing of it is run. Its kernels are shown as they were compiled, by block and by kind, with
    the bytes that they move and the types that they compute in; the manifest has them, so no GPU is needed. Ends with 1
    where the file is not what its manifest says, with 4 where it is for another TensorRT or GPU than this machine's.
    """
    from hemf_export import console, inspection

    names = tuple(name.strip() for name in classes.split(",")) if classes else None
    with console.step(f"Reading {file.name}"):
        found = inspection.inspect(file, classes=names, reading=reading, trust=trust, every_kernel=every_kernel)
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
    if words := _next(found):
        console.next_command(*words)


def _next(found: object) -> tuple[str | Path, ...]:
    from hemf_export.inspection import Inspection

    assert isinstance(found, Inspection)
    if found.kind == "checkpoint":
        return "hemf-export onnx", found.path
    if found.kind == "engine":
        return "hemf-export predict", found.path, "IMAGE…"
    if "precision" in found.values:  # one of ours
        return "hemf-export bench", found.path
    return (
        ("hemf-export calibrate", found.path, "--precision fp16 --images DATA") if found.values["convertible"] else ()
    )
