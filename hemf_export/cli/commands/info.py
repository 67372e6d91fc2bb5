"""`hemf-export info`: parameters and multiply-adds, by part, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import hemf_export
from hemf_export.api.recipes import VARIANTS, WHOLE
from hemf_export.cli.options import WEIGHTS_HELP, Command, Count, classes_option, json_option


@click.command("info", cls=Command)
@click.argument("model", default="hemf-base", metavar="[CKPT|SIZE]")
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"Of a size: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option(
    "--num-classes", type=Count(2, 1_000_000), default=7, show_default=True, help="Number of classes, for a size."
)
@click.option("--image-size", type=Count(32, 8192),
              help="Input size in pixels, where MODEL leaves it open.  [default: its own, else 224]")  # fmt: skip
@click.option("--weights", metavar="KEY", help=WEIGHTS_HELP)
@classes_option()
@json_option()
def command(
    model: str, variant: str, num_classes: int, image_size: int | None, weights: str | None,
    classes: tuple[str, ...] | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the parameters and multiply-adds of a size (hemf-base, hemf-small, hemf-tiny) or a checkpoint.

    They are counted in two ways: as in the paper (the thop package, which knows some layers only), and over every
    matrix product. For hemf-base, Table 3 is shown beside the published numbers.
    """
    from hemf_export.cli import console

    info = hemf_export.info(
        model, variant=variant, num_classes=num_classes, image_size=image_size, weights=weights, classes=classes
    )
    for note in info.notes:
        console.warn(note)
    if as_json:
        console.print_json(info.to_dict())
        return
    if info.description:
        console.facts(str(Path(model)), info.description)
    rows = [(name, *_cells(part)) for name, part in info.parts.items()]
    size = info.config["image_size"]
    columns = ("", "parameters M", "paper's count M", "multiply-adds G", "paper's count G")
    title = f"{info.name}, {info.config['num_classes']} classes, {size} × {size}"
    console.table(title, columns, [*rows, ("total", *_cells(info.total))])
    if info.published is not None:
        console.say("The paper prints {} M and {} G (Table 6).".format(*info.published))
    if info.table_3:
        _print_table_3(info.table_3)


def _cells(count: Any) -> tuple[str, ...]:
    millions = f"{count.parameters / 1e6:.3f}", f"{count.paper_parameters / 1e6:.2f}"
    return (*millions, f"{count.products / 1e9:.3f}", f"{count.paper / 1e9:.2f}")


def _print_table_3(rows: Sequence[Mapping[str, Any]]) -> None:
    from hemf_export.cli import console

    titles = {
        "sirmlp_parameters": "SIR M", "irmlp_parameters": "IR M", "parameters_decline": "less %",
        "sirmlp_multiply_adds": "SIR G", "irmlp_multiply_adds": "IR G", "multiply_adds_decline": "less %",
    }  # fmt: skip
    cells = []
    for row in rows:
        cells.append((f"{row['stage']} counted", *(f"{row['found'][name]:.3f}" for name in titles)))
        cells.append(("  published", *(f"{row['published'][name]:.3f}" for name in titles)))
    console.table("\nTable 3: SIRMLP (SIR) and IRMLP (IR) by stage", ("stage", *titles.values()), cells)
