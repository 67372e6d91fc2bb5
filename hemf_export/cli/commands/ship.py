"""`hemf-export ship`: checkpoints → proven, packed and tried bundles, in one command that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hemf_export.cli.options import (
    IMAGE_SIZE_HELP,
    PATH,
    POINTS,
    SECONDS,
    WEIGHTS_HELP,
    Command,
    golden_option,
    json_option,
    metric_option,
)
from hemf_export.files.errors import HemfError, UsageError

if TYPE_CHECKING:
    from hemf_export.shipping.shipment import Shipped


@click.command("ship", cls=Command)
@click.argument("checkpoint", metavar="CKPT|FOLDER", type=PATH)
@click.option("--data", required=True, type=PATH,
              help="Data folder: calibrates on train/, chooses on val/, verifies on test/.")  # fmt: skip
@click.option("-o", "--output", required=True, type=PATH, metavar="DIR",
              help="For all files; of several checkpoints a folder each.")  # fmt: skip
@click.option("--name", metavar="NAME", help="Of the files, and in Triton.  [default: the checkpoint's]")
@click.option("--config", type=PATH, metavar="FILE.toml", help="Options; flags win over it.")
@click.option("--target", default="t4", show_default=True, help="GPU or compute capability, as in trt.")
@click.option(
    "--max-drop", type=POINTS, default=0.5, show_default=True, metavar="POINTS", help="Accuracy that INT8 may cost."
)
@click.option("--precision", type=click.Choice(["auto", "fp16"]), default="auto", show_default=True,
              help="auto: INT8 where the engine is modelled 5 % faster within --max-drop, else FP16.")  # fmt: skip
@metric_option
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]), default="auto", show_default=True)
@click.option("--batch", default="1:8:32", show_default=True, metavar="MIN:OPT:MAX", help="Of the engine.")
@click.option("--input", type=click.Choice(["float32", "uint8"]), default="float32", show_default=True,
              help="Normalized images, or raw pixels.")  # fmt: skip
@click.option("--source-size", default="", metavar="HxW", help="Of raw images that the model resizes itself.")
@click.option("--classes", default="", metavar="A,B,C", help="For a checkpoint that names none.")
@click.option("--weights", default="", metavar="KEY", help=WEIGHTS_HELP)
@click.option("--image-size", type=click.IntRange(min=0), default=0, help=IMAGE_SIZE_HELP)
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure latency.")
@click.option("--bench-seconds", type=SECONDS, default=10.0, show_default=True, help="At most, for each batch size.")
@golden_option("Images in the bundle.")
@click.option(
    "--noise", is_flag=True, default=False, help="Golden images are noise: no image of the data is in the bundle."
)
@click.option("--triton/--no-triton", default=True, show_default=True, help="With a repository for Triton.")
@click.option("--cpp/--no-cpp", default=True, show_default=True, help="With the C++ library and its example.")
@click.option("--use", default="", metavar="FILE.md", help="What it is for: for the model card.")
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

    Exports to ONNX, finds the precision that keeps to the budget, builds the engine, verifies on every image, measures
    latency and packs the bundle, each as its own command does. What was done of the same inputs is not done again: run
    the same line after an interruption, or with another option. One checkpoint that fails doesn't stop the others.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.shipping import options as given
    from hemf_export.shipping import shipment

    given_flags = {key: flags[key] for key in flags if context.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    options = given.resolve(config, given_flags)
    _check(options)
    sources = shipment.find(checkpoint, output, name)
    shipped = shipment.ship(sources, data, options, ConsoleProgress(_Steps()))
    if as_json and not shipment.failures(shipped):
        console.print_json({"shipped": [one.to_dict() for one in shipped]})
        return
    if not as_json:
        console.table(f"Shipped for {options.target}", COLUMNS, [_row(one) for one in shipped], words=(0, 1, 6))
        if not any(one.made or one.error for one in shipped):
            console.say("All as before: nothing was done.")
    _raise_failures(shipment.failures(shipped), len(shipped))
    bundle = shipped[0].bundle
    assert bundle is not None, "what didn't fail has a bundle"
    console.next_command("hemf-export self-test", bundle)


COLUMNS = ("checkpoint", "precision", "accuracy", "float32", "agreement", "size", "bundle")


def _check(options: Any) -> None:
    """What this machine or the options lack, before any work."""
    from hemf_export.engines import targets
    from hemf_export.engines.batches import BatchProfile
    from hemf_export.images.model_input import SourceSize
    from hemf_export.triton import config_file

    targets.find(options.target)
    BatchProfile.parse(options.batch)
    if options.source_size:
        SourceSize.parse(options.source_size)
    if options.use and not Path(options.use).is_file():
        raise UsageError(f"No file at {options.use}.", "--use takes a text of your own for the model card.")
    if options.triton:
        config_file.messages()


def _row(one: Shipped) -> tuple[str, ...]:
    from hemf_export.cli import console

    facts = one.facts

    def share(name: str) -> str:
        return f"{facts[name]:.2%}" if facts.get(name) is not None else "–"

    size = console.size(facts["size_bytes"]) if one.bundle else "–"
    where = str(one.bundle) if one.bundle else f"failed at {one.failed_at or 'the start'}"
    return (
        one.source.name, facts.get("precision", "–"), share("accuracy"), share("reference_accuracy"),
        share("agreement"), size, where,
    )  # fmt: skip


def _raise_failures(failed: list[Shipped], total: int) -> None:
    """End with the code of the first failure. A defect of ours is raised as it came, so that --debug shows where."""
    if not failed:
        return
    first = failed[0].error
    assert first is not None
    if total == 1 or not isinstance(first, HemfError):
        raise first
    reasons = "\n  ".join(f"{one.source.name}, {one.failed_at or 'at the start'}: {one.error}" for one in failed)
    error = HemfError(
        f"{len(failed)} of {total} checkpoints failed:\n  {reasons}",
        "The others are shipped. Run the same command again to try these anew.",
    )
    error.exit_code = first.exit_code
    raise error


class _Steps:
    """Prints the steps of each checkpoint, and those of the search for its precision."""

    def __init__(self) -> None:
        from hemf_export.cli.calibration_report import SearchSteps

        self._search = SearchSteps()
        self._label = ""

    def __call__(self, event: object) -> None:
        from hemf_export.cli import console
        from hemf_export.cli.calibration_report import SearchSteps
        from hemf_export.shipping.shipment import CheckpointBegun, StepBegun

        match event:
            case CheckpointBegun(name, number, total):
                self._label = f"[{number}/{total}] {name}: " if total > 1 else ""
                self._search = SearchSteps()
            case StepBegun(name, done_before):
                console.say(f"{self._label}{name}" + (": as before" if done_before else ""))
            case _:
                self._search(event)
