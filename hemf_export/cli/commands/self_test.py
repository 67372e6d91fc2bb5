"""`hemf-export self-test`: an engine's golden images on this GPU, or a whole bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hemf_export.cli.options import PATH, Command, Number, json_option
from hemf_export.files.errors import UsageError
from hemf_export.metrics.percentage import percentage

if TYPE_CHECKING:
    from hemf_export.bundles.index import Index
    from hemf_export.bundles.latency import Latency
    from hemf_export.bundles.trial import Tried
    from hemf_export.engines.golden import SelfTest


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
    """Run golden images, and compare with what the graphs compute that were proven.

    Of an ENGINE those that lie beside it. Of a BUNDLE (FILE.tar.zst) every hash is compared first, then each model is
    run that runs here, and timed beside the bundle's own benchmark, in turn with another of its models, so that a busy
    machine fails nothing. Ends with 1 where a bundle was changed, and nothing of it is unpacked then; with 3 where a
    logit differs by more than a manifest allows, or where a model is too slow; with 4 where nothing can run here.
    """
    from hemf_export.bundles import archive

    if archive.looks_like_one(engine):
        return _bundle(engine, cuda_graphs, keep, max_slowdown, strict, as_json)
    if keep is not None or max_slowdown is not None or strict:
        raise UsageError("--keep, --max-slowdown and --strict are of bundles.", f"{engine} is taken for an engine.")
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.models import self_test

    with ConsoleProgress().task(f"Running {engine.name} on its golden images"):
        found = self_test.run(engine, cuda_graphs=cuda_graphs)
    for note in found.notes:
        console.warn(note)
    if as_json:
        console.print_json({"file": str(engine), **found.to_dict()})
        return None
    rows = [
        ("images", str(found.comparison.images)),
        ("largest logit difference", f"{found.comparison.logit_difference.max:.2e} (bound {found.bound:.3g})"),
        ("top-1 agreement", percentage(found.comparison.agreement, found.comparison.images)),
    ]
    console.facts(f"{engine} computes what its graph does", rows)
    console.next_command("hemf-export predict", engine, "IMAGE…")
    return None


def _bundle(
    path: Path, cuda_graphs: bool, keep: Path | None, max_slowdown: float | None, strict: bool, as_json: bool
) -> None:
    from hemf_export.bundles import latency, trial
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    latency.require_bound(max_slowdown)
    progress = ConsoleProgress()
    with trial.opened(path, keep, progress) as (folder, index):
        found = trial.run(folder, index, cuda_graphs=cuda_graphs, max_slowdown=max_slowdown, progress=progress)
        for model in found.models:
            for note in model.notes:
                console.warn(f"{model.file}: {note}")
        if not as_json:
            _show(path, index, found.models)
        found.require(path, strict=strict)
    if as_json:
        values = {
            "file": str(path), "passed": True, "files": len(index.members) + 2,
            "contents_sha256": index.contents_sha256, "models": [model.to_dict() for model in found.models],
        }  # fmt: skip
        console.print_json(values)
        return
    runnable = next(model for model in found.models if model.outcome == "passed")
    if keep is None:
        console.next_command("hemf-export self-test", path, "--keep DIR")
    else:
        console.next_command("hemf-export predict", keep / "models" / runnable.file, "IMAGE…")


def _show(path: Path, index: Index, models: tuple[Tried, ...]) -> None:
    from hemf_export.cli import console

    console.say(f"{path}: {len(index.members) + 2} files, every hash agrees; contents {index.contents_sha256}")
    rows = []
    for model in models:
        golden, latency = model.golden, model.latency
        rows.append(
            (
                model.file,
                model.precision,
                "" if golden is None else f"{golden.comparison.logit_difference.max:.1e} (bound {golden.bound:.2g})",
                "" if golden is None else _agreement(golden),
                "" if latency is None else f"{latency.p50_ms:.3g} ms ({latency.known.p50_ms:.3g} there)",
                model.outcome,
            )
        )
    columns = ("file", "precision", "largest logit difference", "same class", "p50", "")
    console.table("On this machine", columns, rows)
    for model in models:
        if model.reason:
            console.say(f"not run: {model.reason}")
        if (timed := model.latency) is not None and timed.bound is None:
            console.say(f"{model.file}: latency without a verdict, {_why_no_verdict(timed)}.")


def _agreement(golden: SelfTest) -> str:
    compared = golden.comparison
    return f"{percentage(compared.agreement, compared.images)} of {compared.images}"


def _why_no_verdict(timed: Latency) -> str:
    if not timed.known.same_kind:
        return f"it was timed on another machine ({timed.known.machine}; here: {timed.known.here})"
    return "the bundle has no second model that was timed beside it: a busy machine would look like a slow model"
