"""`hemf-export self-test`: an engine's golden images on this GPU, or a whole bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hemf.errors import UsageError
from hemf_export.number_options import Number

if TYPE_CHECKING:
    from hemf_export.bundle.index import Index
    from hemf_export.bundle.trial import Tried


@click.command("self-test")
@click.argument("engine", metavar="ENGINE|BUNDLE", type=click.Path(path_type=Path))
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, show_default=True, help="Launch as captured graphs.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Bundle: unpack it there, if it passes.")
@click.option("--max-slowdown", type=Number(), metavar="PERCENT",
              help="Bundle: than its own benchmark.  [default: 100 on a machine of its kind, else none]")  # fmt: skip
@click.option("--strict", is_flag=True, help="Bundle: end with 4 where any of its files can't run here.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    engine: Path, cuda_graphs: bool, keep: Path | None, max_slowdown: float | None, strict: bool, as_json: bool
) -> None:
    """Run golden images, and compare with what the graphs compute that were proven.

    Of an ENGINE those that lie beside it. Of a BUNDLE (FILE.tar.zst) every hash is compared first, then each model is
    run that runs here, and timed beside the bundle's own benchmark. Ends with 1 where a bundle was changed, and nothing
    of it is unpacked then; with 3 where a logit differs by more than a manifest allows, or where it is too slow; with 4
    where nothing can run here.
    """
    from hemf_export.bundle import archive

    if archive.looks_like_one(engine):
        return _bundle(engine, cuda_graphs, keep, max_slowdown, strict, as_json)
    if keep is not None or max_slowdown is not None or strict:
        raise UsageError("--keep, --max-slowdown and --strict are of bundles.", f"{engine} is taken for an engine.")
    from hemf_export import console, self_test

    with console.step(f"Running {engine.name} on its golden images"):
        found = self_test.run(engine, cuda_graphs=cuda_graphs)
    for note in found.notes:
        console.warn(note)
    if as_json:
        console.print_json({"file": str(engine), **self_test.to_dict(found)})
        return None
    rows = [
        ("images", str(found.images)),
        ("largest logit difference", f"{found.max_difference:.2e} (bound {found.bound:.3g})"),
        ("top-1 agreement", f"{found.agreement:.2%}"),
    ]
    console.facts(f"{engine} computes what its graph does", rows)
    console.next_command("hemf-export predict", engine, "IMAGE…")
    return None


def _bundle(
    path: Path, cuda_graphs: bool, keep: Path | None, max_slowdown: float | None, strict: bool, as_json: bool
) -> None:
    from hemf_export import console
    from hemf_export.bundle import latency, trial

    latency.require_bound(max_slowdown)
    bar = console.PhaseBar("Unpacking")
    done = 0

    def unpacked(count: int) -> None:
        nonlocal done
        done += count
        bar.update(console.size(done), 0, 0)

    try:
        with trial.opened(path, keep, unpacked) as (folder, index):
            bar.stop()
            found = trial.run(
                folder, index, cuda_graphs=cuda_graphs, max_slowdown=max_slowdown,
                begin=lambda name: console.say(f"Running {name} on its golden images …"),
            )  # fmt: skip
            for model in found.models:
                for note in model.notes:
                    console.warn(f"{model.file}: {note}")
            if not as_json:
                _show(path, index, found.models)
            found.require(path, strict=strict)
    finally:
        bar.stop()
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
    from hemf_export import console

    console.say(f"{path}: {len(index.members) + 2} files, every hash agrees; contents {index.contents_sha256}")
    rows = []
    for model in models:
        golden, latency = model.golden, model.latency
        rows.append(
            (
                model.file,
                model.precision,
                "" if golden is None else f"{golden.max_difference:.1e} (bound {golden.bound:.2g})",
                "" if golden is None else f"{golden.agreement:.1%} of {golden.images}",
                "" if latency is None else f"{latency.p50_ms:.3g} ms ({latency.known.p50_ms:.3g} there)",
                model.outcome,
            )
        )
    columns = ("file", "precision", "largest logit difference", "same class", "p50", "")
    console.table("On this machine", columns, rows)
    for model in models:
        if model.reason:
            console.say(f"not run: {model.reason}")
        if (timed := model.latency) is not None and not timed.known.same_kind:
            held = "" if timed.max_slowdown is None else f" Held to {timed.max_slowdown:g} % all the same."
            console.say(
                f"{model.file} was timed on another machine ({timed.known.machine}; here: {timed.known.here}).{held}"
            )
