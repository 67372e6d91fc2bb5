"""`hemf-export info`: parameters and multiply-adds, by part, beside the paper's figures; or all networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

import hemf_export
from hemf_export.api.recipes import VARIANTS, WHOLE
from hemf_export.cli.options import WEIGHTS_HELP, Command, Count, classes_option, factory_option, json_option
from hemf_export.files.errors import UsageError


@click.command("info", cls=Command)
@click.argument("model", required=False, metavar="[CKPT|NAME]")
@click.option("--list", "listed", is_flag=True, help="List every network that a name stands for.")
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"Reduced network, for a size of HEMF: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option(
    "--num-classes", type=Count(2, 1_000_000), default=7, show_default=True, help="Number of classes, for a size."
)
@click.option("--image-size", type=Count(32, 8192),
              help="Input size in pixels, where MODEL leaves it open.  [default: its own, else 224]")  # fmt: skip
@click.option("--weights", metavar="KEY", help=WEIGHTS_HELP)
@factory_option
@classes_option()
@json_option()
@click.pass_context
def command(
    context: click.Context, /, model: str | None, listed: bool, variant: str, num_classes: int,
    image_size: int | None, weights: str | None, factory: str | None, classes: tuple[str, ...] | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the parameters and multiply-adds of a network by its name (see --list), or of a checkpoint.

    They are counted in two ways: over every matrix product, and as published counts are made, which leave some out.
    Table 6 is shown beside them, with the reason where it can't be counted again, and for hemf-base Table 3.
    """
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    if listed:
        _list(context, num_classes, as_json=as_json)
        return
    info = hemf_export.info(
        model, variant=variant, num_classes=num_classes, image_size=image_size, weights=weights, factory=factory,
        classes=classes, progress=ConsoleProgress(),
    )  # fmt: skip
    for note in info.notes:
        console.warn(note)
    if as_json:
        console.print_json(info.to_dict())
        return
    if info.description:
        console.facts(str(model), info.description)
    rows = [(name, *_cells(part)) for name, part in info.parts.items()]
    size = info.config["image_size"]
    columns = ("", "parameters M", "published way M", "multiply-adds G", "published way G")
    title = f"{info.name}, {info.config['num_classes']} classes, {size} × {size}"
    console.table(title, columns, [*rows, ("total", *_cells(info.total))])
    console.say(info.counting)
    if (printed := info.published) is not None:
        reason = f" {printed.reason}" if printed.reason else ""
        console.say(
            f"The paper prints {printed.parameters_m:.2f} M and {printed.multiply_adds_g:.2f} G (Table 6).{reason}"
        )
    if info.table_3:
        _print_table_3(info.table_3)


def _list(context: click.Context, num_classes: int, *, as_json: bool) -> None:
    """Show all networks; what belongs to one of them is refused."""
    from hemf_export.cli import console
    from hemf_export.cli.progress import ConsoleProgress

    for name in ("model", "variant", "image_size", "weights", "factory", "classes"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            parameter = next(one for one in context.command.params if one.name == name)
            named = parameter.opts[-1] if isinstance(parameter, click.Option) else str(context.params[name])
            raise UsageError(f"--list shows all networks: {named} does nothing with it.", "Leave one out.")
    networks = hemf_export.list_networks(num_classes=num_classes, progress=ConsoleProgress())
    if as_json:
        console.print_json(networks.to_dict())
        return
    table = networks.table
    console.table(table.title, table.columns, table.rows, words=table.words)


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
