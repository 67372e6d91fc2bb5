"""`hemf-export self-test`: an engine's golden images on this GPU, against what its graph made of them."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("self-test")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, show_default=True, help="Launch as captured graphs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(engine: Path, cuda_graphs: bool, as_json: bool) -> None:
    """Run ENGINE on its golden images, which lie beside it, and compare with what its graph computes.

    Ends with 3 where a logit differs by more than the manifest allows, with 4 where the engine can't run here.
    """
    from hemf_export import console, self_test

    with console.step(f"Running {engine.name} on its golden images"):
        found = self_test.run(engine, cuda_graphs=cuda_graphs)
    for note in found.notes:
        console.warn(note)
    if as_json:
        click.echo(json.dumps({"file": str(engine), **self_test.to_dict(found)}, indent=2))
        return
    rows = [
        ("images", str(found.images)),
        ("largest logit difference", f"{found.max_difference:.2e} (bound {found.bound:.3g})"),
        ("top-1 agreement", f"{found.agreement:.2%}"),
    ]
    console.facts(f"{engine} computes what its graph does", rows)
    console.next_command("hemf-export predict", engine, "IMAGE…")
