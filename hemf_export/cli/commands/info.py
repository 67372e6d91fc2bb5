"""`hemf-export info`: parameters and multiply-adds, by part, beside the paper's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.options import WEIGHTS_HELP, Command, Count, classes_option, json_option
from hemf_export.networks.variants import VARIANTS, WHOLE


@click.command("info", cls=Command)
@click.argument("model", default="hemf-base", metavar="[CKPT|SIZE]")
@click.option("--variant", default=WHOLE, show_default=True, metavar="NAME",
              help=f"Of a size: {', '.join(VARIANTS)}.")  # fmt: skip
@click.option("--num-classes", type=Count(2, 1_000_000), default=7, show_default=True, help="For a size.")
@click.option("--image-size", type=Count(32, 8192),
              help="For a size, or a checkpoint that doesn't say it.  [default: its own, else 224]")  # fmt: skip
@click.option("--weights", metavar="KEY", help=WEIGHTS_HELP)
@classes_option()
@json_option()
def command(
    model: str, variant: str, num_classes: int, image_size: int | None, weights: str | None,
    classes: tuple[str, ...] | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the parameters and multiply-adds of a size (hemf-base, hemf-small, hemf-tiny) or a checkpoint.

    They are counted in two ways: as the paper did (the thop package, which sees known layers only), and every
    product of matrices. For hemf-base, Table 3 stands beside the published numbers.
    """
    from hemf_export.cli import console
    from hemf_export.files.errors import UsageError
    from hemf_export.models.model_file import CheckpointFile
    from hemf_export.networks.config import SIZES, registered
    from hemf_export.networks.count import Count, count_parts
    from hemf_export.networks.variants import variant_of, vary

    path = Path(model)
    saved = None
    if model in SIZES or not (path.exists() or path.suffix):
        config = vary(registered(model, num_classes=num_classes, image_size=image_size or 224), variant)
    else:
        if variant != WHOLE:
            raise UsageError(f"{model} says itself what its network is.", "Leave out --variant.")
        saved = CheckpointFile.open(path, classes=classes, reading=Reading(weights, image_size)).load()
        config = saved.config
        for note in saved.notes:
            console.warn(note)
    parts = count_parts(config)
    total = sum(parts.values(), Count())
    of_paper = config.width == 96 and config.image_size == 224 and config.mlp in ("sirmlp", "irmlp")
    table_3 = _table_3() if of_paper else []
    from hemf_export.cli import console

    if as_json:
        values: dict[str, Any] = {
            "config": config.to_dict(),
            "parts": {name: vars(part) for name, part in parts.items()},
        }
        values |= {"total": vars(total), "table_3": table_3}
        console.print_json(values)
        return
    if saved is not None:
        _print_checkpoint(path, saved)
    rows = [(name, *_cells(part)) for name, part in parts.items()]
    title = f"{config.name}, {config.num_classes} classes, {config.image_size} × {config.image_size}"
    columns = ("", "parameters M", "paper's count M", "multiply-adds G", "paper's count G")
    console.table(title, columns, [*rows, ("total", *_cells(total))])
    if table_3:
        from hemf_export.networks import published

        if variant_of(config) == WHOLE:
            console.say(f"The paper prints {published.PARAMETERS_M} M and {published.MULTIPLY_ADDS_G} G (Table 6).")
        _print_table_3(table_3)


def _cells(count: Any) -> tuple[str, ...]:
    millions = f"{count.parameters / 1e6:.3f}", f"{count.paper_parameters / 1e6:.2f}"
    return (*millions, f"{count.products / 1e9:.3f}", f"{count.paper / 1e9:.2f}")


def _print_checkpoint(path: Path, saved: Any) -> None:
    from hemf_export.cli import console

    figures = saved.metrics.get("validation", {})
    rows = [
        ("classes", ", ".join(saved.classes)),
        ("preprocessing", f"{saved.preprocess.mode}, {saved.preprocess.size} px"),
        ("SHA-256", saved.sha256),
    ]
    if saved.dropped:
        rows.append(("left out", f"{len(saved.dropped)} tensors that take no part: {', '.join(saved.dropped)}"))
    if figures:
        accuracy = "not finite" if figures["accuracy"] is None else f"{figures['accuracy']:.2%}"
        rows.append(("validation accuracy", f"{accuracy} (epoch {saved.metrics['epoch']})"))
    console.facts(str(path), rows)


def _table_3() -> list[dict[str, Any]]:
    from hemf_export.networks import published
    from hemf_export.networks.count import count_mlp
    from hemf_export.networks.inverted_residual import IRMLP, SIRMLP

    rows = []
    for row in published.TABLE_3:
        ours, wide = (count_mlp(kind, row.channels, row.size) for kind in (SIRMLP, IRMLP))
        found = (
            ours.parameters / 1e6,
            wide.parameters / 1e6,
            100 * (1 - ours.parameters / wide.parameters),
            ours.paper / 1e9,
            wide.paper / 1e9,
            100 * (1 - ours.paper / wide.paper),
        )
        names = published.MlpRow._fields[3:]
        rows.append({"stage": row.stage, "found": dict(zip(names, found, strict=True)), "published": row._asdict()})
    return rows


def _print_table_3(rows: list[dict[str, Any]]) -> None:
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
