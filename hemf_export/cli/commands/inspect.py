"""`hemf-export inspect`: what a file of ours is, whether it is whole, and whether an engine may run here."""

from __future__ import annotations

from pathlib import Path

import click

import hemf_export
from hemf_export.cli.options import PATH, Command, checkpoint_options, classes_option, json_option


@click.command("inspect", cls=Command)
@click.argument("file", type=PATH)
@classes_option()
@checkpoint_options
@click.option("--trust", is_flag=True, help="Accept an engine without a manifest, whose origin nothing shows.")
@click.option("--layers", "every_kernel", is_flag=True, help="List every kernel that was compiled into an engine.")
@json_option()
def command(
    file: Path,
    classes: tuple[str, ...] | None,
    trust: bool,
    every_kernel: bool,
    as_json: bool,
    weights: str | None,
    image_size: int | None,
    factory: str | None,
) -> None:
    """Show what FILE is: a checkpoint, an ONNX file or an engine.

    An engine is checked as before every run (manifest, hash, the plan's own header, TensorRT's version, driver,
    compute capability), but not run. Its compiled kernels are listed by block and by kind, with the bytes that they
    move and the types that they compute in; they are in the manifest, so no GPU is needed.

    Ends with 1 if the file is not what its manifest says, and with 4 if it needs another TensorRT or GPU.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    inspection = hemf_export.inspect(
        file, classes=classes, weights=weights, image_size=image_size, factory=factory, trust=trust,
        layers=every_kernel,
        progress=ConsoleProgress(),
    )  # fmt: skip
    for note in inspection.notes:
        console.warn(note)
    if as_json:
        inspection.require()
        console.print_json(inspection.to_dict())
        return
    console.facts(str(file), inspection.description)
    if inspection.checks:
        console.results.print()
        console.table("checks", ("check", "outcome", "found"), inspection.checks, words=(0, 1, 2))
    for table in inspection.tables:
        console.results.print()
        console.table(table.title, table.columns, table.rows, words=table.words)
    inspection.require()
    _propose(inspection)


def _propose(inspection: hemf_export.Inspection) -> None:
    from hemf_export.cli import console, next_step

    if inspection.kind == "checkpoint":
        next_step.show(inspection.path)
    elif inspection.kind == "engine":
        if any(outcome == "not checked" for _, outcome, _ in inspection.checks):  # no GPU or TensorRT here to run it
            next_step.show(inspection.path)
        else:
            console.next_command("hemf-export predict", inspection.path, "IMAGE…")
    elif "precision" in inspection.values:  # one of ours
        console.next_command("hemf-export bench", inspection.path)
    elif inspection.values["convertible"]:
        console.next_command("hemf-export calibrate", inspection.path, "--precision fp16 --images DATA")
