"""`hemf-export self-test`: an engine's golden images on this GPU, or a whole bundle on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.cli.options import PATH, Command, Number, json_option
from hemf_export.metrics.percentage import percentage


@click.command("self-test", cls=Command)
@click.argument("engine", metavar="ENGINE|BUNDLE", type=PATH)
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, show_default=True, help="Launch as captured graphs.")
@click.option("--keep", type=PATH, metavar="DIR", help="Bundle: unpack it there, if it passes.")
@click.option("--max-slowdown", type=Number(), metavar="PERCENT",
              help="Bundle: fail where a model is that much slower than in the bundle's benchmark.  [default: 100, and "
              "beside another model of the bundle, on a machine of the same kind]")  # fmt: skip
@click.option("--strict", is_flag=True, help="Bundle: end with 4 where any of its files can't run here.")
@json_option()
def command(
    engine: Path, cuda_graphs: bool, keep: Path | None, max_slowdown: float | None, strict: bool, as_json: bool
) -> None:
    """Run golden images, and compare their logits with those of the proven graphs.

    The golden images of an ENGINE lie beside it. Of a BUNDLE (FILE.tar.zst) every hash is checked first; then each
    model that can run here is run, and timed in turn with another model of the bundle, so that a busy machine fails
    nothing.

    Ends with 1 if the bundle was changed (nothing is unpacked then), with 3 if a logit differs by more than its
    manifest allows or a model is too slow, and with 4 if nothing can run here.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    progress = ConsoleProgress(lambda event: _show_bundle(event, as_json))
    result = hemf_export.self_test(
        engine, keep=keep, strict=strict, max_slowdown=max_slowdown, cuda_graphs=cuda_graphs, progress=progress
    )
    values = result.to_dict()
    if "models" not in values:
        for note in result.notes:
            console.warn(note)
    if as_json:
        console.print_json(values)
    elif "models" not in values:
        _show_engine(engine, values)
        console.next_command("hemf-export predict", engine, "IMAGE…")
    elif keep is None:
        console.next_command("hemf-export self-test", engine, "--keep DIR")
    else:
        runnable = next(model for model in values["models"] if model["outcome"] == "passed")
        console.next_command("hemf-export predict", keep / "models" / runnable["file"], "IMAGE…")


def _show_engine(path: Path, values: Mapping[str, Any]) -> None:
    from hemf_export.cli import console

    rows = [
        ("images", str(values["images"])),
        ("largest logit difference", f"{values['logit_difference']['max']:.2e} (bound {values['bound']:.3g})"),
        ("top-1 agreement", percentage(values["agreement"], values["images"])),
    ]
    console.facts(f"{path} computes what its graph does", rows)


def _show_bundle(event: object, as_json: bool) -> None:
    """Print the results of a bundle's models, even if an error follows."""
    from hemf_export.cli import console

    if not isinstance(event, hemf_export.SelfTest):
        return
    for note in event.notes:
        console.warn(note)
    if as_json:
        return
    values = event.to_dict()
    console.result(event.verdict)
    console.say(f"{values['file']}: {values['files']} files, every hash agrees; contents {values['contents_sha256']}")
    rows = []
    for model in values["models"]:
        golden, latency = model["golden"], model["latency"]
        rows.append(
            (
                model["file"],
                model["precision"],
                "" if golden is None else f"{_difference(golden)} (bound {golden['bound']:.2g})",
                "" if golden is None else f"{percentage(golden['agreement'], golden['images'])} of {golden['images']}",
                "" if latency is None else f"{latency['p50_here_ms']:.3g} ms ({latency['p50_ms']:.3g} there)",
                model["outcome"],
            )
        )
    columns = ("file", "precision", "largest logit difference", "same class", "p50", "")
    console.table("On this machine", columns, rows)
    for model in values["models"]:
        if model["reason"]:
            console.say(f"not run: {model['reason']}")
        if (timed := model["latency"]) is not None and timed["max_slowdown_percent"] is None:
            console.say(f"{model['file']}: latency without a verdict, {_why_no_verdict(timed)}.")


def _difference(golden: Mapping[str, Any]) -> str:
    largest = golden["logit_difference"]["max"]
    return "not finite" if largest is None else f"{largest:.1e}"


def _why_no_verdict(timed: Mapping[str, Any]) -> str:
    if not timed["same_kind"]:
        return f"it was timed on another machine ({timed['machine']}; here: {timed['here']})"
    return "the bundle has no second model that was timed beside it: a busy machine would look like a slow model"
