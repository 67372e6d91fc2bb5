"""`hemf-export ship`: checkpoints → proven, packed and tried bundles, in one command that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import hemf_export
from hemf_export.cli.options import (
    FACTORY_HELP,
    IMAGE_SIZE_HELP,
    PATH,
    POINTS,
    SECONDS,
    WEIGHTS_HELP,
    Command,
    golden_option,
    json_option,
    metric_option,
    search_here,
)
from hemf_export.files.errors import HemfError
from hemf_export.metrics.percentage import percentage


@click.command("ship", cls=Command)
@click.argument("checkpoint", metavar="CKPT|FOLDER", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Data folder: train/ calibrates, val/ selects, test/ verifies.")  # fmt: skip
@click.option("-o", "--output", required=True, type=PATH, metavar="DIR",
              help="Folder for all files; several checkpoints get a folder each.")  # fmt: skip
@click.option(
    "--name", metavar="NAME", help="Name of the files and of the model in Triton.  [default: the checkpoint's]"
)
@click.option("--config", type=PATH, metavar="FILE.toml", help="File of options; flags override it.")
@click.option(
    "--target", default="t4", show_default=True, help="GPU or compute capability that the engine is for, as in trt."
)
@click.option(
    "--max-drop",
    type=POINTS,
    default=0.5,
    show_default=True,
    metavar="POINTS",
    help="Largest drop of --metric that INT8 may cost.",
)
@click.option("--precision", type=click.Choice(["auto", "fp16"]), default="auto", show_default=True,
              help="auto: INT8 if its engine is modelled 5 % faster within --max-drop, else FP16.")  # fmt: skip
@metric_option
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True)
@click.option("--batch", default="1:8:32", show_default=True, metavar="MIN:OPT:MAX", help="Batch sizes of the engine.")
@click.option("--input", type=click.Choice(["float32", "uint8"]), default="float32", show_default=True,
              help="Input of the files: normalized images, or raw pixels.")  # fmt: skip
@click.option("--source-size", default="", metavar="HxW", help="Size of raw images that the model resizes itself.")
@click.option("--classes", default="", metavar="A,B,C", help="Class names, for a checkpoint that has none.")
@click.option("--weights", default="", metavar="KEY", help=WEIGHTS_HELP)
@click.option("--image-size", type=click.IntRange(min=0), default=0, help=IMAGE_SIZE_HELP)
@click.option("--model", "factory", default="", metavar="MODULE:FUNCTION", help=FACTORY_HELP)
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure latency.")
@click.option(
    "--bench-seconds", type=SECONDS, default=10.0, show_default=True, help="Longest time spent on a batch size."
)
@golden_option("Number of golden images in the bundle.")
@click.option(
    "--noise",
    is_flag=True,
    default=False,
    help="Use noise as golden images, so that the bundle holds no image of the data.",
)
@click.option("--triton/--no-triton", default=True, show_default=True, help="Include a model repository for Triton.")
@click.option("--cpp/--no-cpp", default=True, show_default=True, help="Include the C++ library and its example.")
@click.option("--use", default="", metavar="FILE.md", help="Intended use, as text for the model card.")
@json_option()
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoint: Path,
    data: Path,
    output: Path,
    name: str | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Take CKPT, or every checkpoint of FOLDER, to a bundle for a target.

    Exports to ONNX, finds the fastest precision within the budget, builds the engine, verifies it on every image,
    measures latency and packs the bundle, each step as its own command does. Steps whose inputs haven't changed are
    not repeated: run the same line again after an interruption, or with another option. A checkpoint that fails
    doesn't stop the others.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    changes = {key: flags[key] for key in flags if context.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    options = hemf_export.ShipOptions.read(config, changes)
    if options.factory:
        search_here()
    shipments = hemf_export.ship_all(
        checkpoint, data, output, options=options, name=name, progress=ConsoleProgress(_Steps())
    )
    failed = [shipment for shipment in shipments if shipment.error is not None]
    if as_json and not failed:
        console.print_json({"shipped": [shipment.to_dict() for shipment in shipments]})
        return
    if not as_json:
        console.table(f"Shipped for {options.target}", COLUMNS, [_row(one) for one in shipments], words=(0, 1, 6))
        if not any(shipment.is_new for shipment in shipments):
            console.say("All as before: nothing was done.")
    _raise_failures(failed, len(shipments))
    console.next_command("hemf-export self-test", shipments[0].path)


COLUMNS = ("checkpoint", "precision", "accuracy", "float32", "agreement", "size", "bundle")


def _row(shipment: hemf_export.Shipment) -> tuple[str, ...]:
    from hemf_export.cli import console

    values = shipment.to_dict()

    def share(name: str) -> str:
        return percentage(values[name], values["images"]) if values.get(name) is not None else "–"

    size = console.size(values["size_bytes"]) if values["bundle"] else "–"
    where = values["bundle"] or f"failed at {values['failed_at'] or 'the start'}"
    return (
        shipment.name, values.get("precision", "–"), share("accuracy"), share("reference_accuracy"),
        share("agreement"), size, where,
    )  # fmt: skip


def _raise_failures(failed: list[hemf_export.Shipment], total: int) -> None:
    """End with the code of the first failure. A defect of ours is raised unchanged, for --debug."""
    if not failed:
        return
    failed = sorted(failed, key=lambda one: isinstance(one.error, HemfError))  # defects of ours first
    first = failed[0].error
    assert first is not None
    if total == 1 or not isinstance(first, HemfError):
        raise first
    reasons = "\n  ".join(f"{one.name}, {one.values['failed_at'] or 'at the start'}: {one.error}" for one in failed)
    error = HemfError(
        f"{len(failed)} of {total} checkpoints failed:\n  {reasons}",
        "The others are shipped. Run the same command again to retry these.",
    )
    error.exit_code = first.exit_code
    raise error


class _Steps:
    """Event handler that prints the steps of each checkpoint, and of the search for its precision."""

    def __init__(self) -> None:
        from hemf_export.cli.calibration_report import SearchSteps

        self._search = SearchSteps()
        self._label = ""

    def __call__(self, event: object) -> None:
        from hemf_export.api.events import CheckpointBegun, StepBegun
        from hemf_export.cli import console
        from hemf_export.cli.calibration_report import SearchSteps

        match event:
            case CheckpointBegun(name, number, total):
                self._label = f"[{number}/{total}] {name}: " if total > 1 else ""
                self._search = SearchSteps()
            case StepBegun(name, done_before):
                console.say(f"{self._label}{name}" + (": as before" if done_before else ""))
            case _:
                self._search(event)
