"""Results of an ablation: a table for a terminal and in Markdown, and plain types.

The paper's figures stand beside ours only where the network, the images and the image size are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts
from hemf_export.networks import published
from hemf_export.networks.configuration import WHOLE
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.networks.hemf.variants import COMPONENT_TITLES, TABLE_10, components
from hemf_export.networks.published import AblationRow
from hemf_export.train.ablation import Outcome, Row, judged_on, models
from hemf_export.train.datasets import published_sets
from hemf_export.train.run import Images, Options

JSON_NAME, MARKDOWN_NAME = "ablation.json", "ablation.md"
TITLES = {"accuracy": "accuracy %", "macro_f1": "F1 %", "macro_precision": "precision %", "macro_recall": "recall %"}
_TICK = "✓"


def published_row(row: Row, options: Options, images: Images) -> AblationRow | None:
    """The row of Table 10 that is of the same network and data; None where there is none."""
    variant = row.configuration.variant
    base = row.config.name == (f"hemf-base-{variant}" if variant != WHOLE else "hemf-base")
    same = base and row.config.image_size == published.IMAGE_SIZE
    same = same and published_sets.recognize(images.splits.values()) == "isic2018"
    return published.TABLE_10[TABLE_10.index(variant)] if same and variant in TABLE_10 else None


def columns_and_cells(rows: Sequence[Row], options: Options, images: Images) -> tuple[list[str], list[tuple[str, ...]]]:
    """The table: titles, and one tuple a configuration; the network's parts where they are not all the same."""
    networks = _of_networks(rows)
    paper = [published_row(row, options, images) for row in rows]
    several = any(len(row.outcomes) > 1 for row in rows)
    titles = ["configuration", *[*COMPONENT_TITLES, "params M"] * networks, *TITLES.values()]
    titles += ["runs"] * several + ["paper: acc / F1 / prec / recall %"] * any(paper)
    cells = []
    for row, printed in zip(rows, paper, strict=True):
        ticks = [_TICK if there else "" for there in components(row.configuration.variant)] if networks else []
        line = [row.configuration.name, *[*ticks, f"{row.parameters / 1e6:.3f}"] * networks]
        line += [figure(row, name) for name in TITLES]
        if several:
            line.append(f"{sum(outcome.summary is not None for outcome in row.outcomes)} of {len(row.outcomes)}")
        if any(paper):
            line.append("" if printed is None else " / ".join(f"{value:.2f}" for value in printed[5:]))
        cells.append(tuple(line))
    return titles, cells


def title(rows: Sequence[Row], options: Options, images: Images) -> str:
    """Describe the network and the images in one line."""
    model = ", ".join(models([row.configuration for row in rows], options))
    judges = images.test if images.test is not None else images.validation
    return (
        f"{model}, {options.preprocess().size} px, {len(images.train)} training images; "
        f"{judged_on(images)}: {len(judges)} images"
    )


def to_dict(rows: Sequence[Row], options: Options, images: Images) -> dict[str, Any]:
    """Everything, in plain types; shares are 0 to 1, the paper's figures percent as it prints them."""
    split = judged_on(images)
    return {
        "data": str(options.data),
        "model": ", ".join(models([row.configuration for row in rows], options)),
        "image_size": options.preprocess().size,
        "preprocess": options.mode,
        "classes": list(images.train.classes),
        "images": {name: len(those) for name, those in images.splits.items()},
        "split": split,
        "configurations": [_row_to_dict(row, split, options, images) for row in rows],
        "versions": artifacts.versions(),
    }


def markdown(rows: Sequence[Row], options: Options, images: Images) -> str:
    """The table as Markdown, with what it is of."""
    titles, cells = columns_and_cells(rows, options, images)
    names = len(COMPONENT_TITLES) * _of_networks(rows)
    rule = ["---", *[":-:"] * names, *["--:"] * (len(titles) - 1 - names)]
    lines = ["# Ablation", "", f"{title(rows, options, images)}. {seeds(rows)}", ""]
    lines += ["| " + " | ".join(line) + " |" for line in (titles, rule, *cells)]
    failed = [outcome for row in rows for outcome in row.outcomes if outcome.error is not None]
    if failed:
        lines += ["", *(f"- {outcome.failure}" for outcome in failed)]
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], options: Options, images: Images, folder: Path) -> None:
    """ablation.json and ablation.md in `folder`, each atomically."""
    artifacts.write_json(folder / JSON_NAME, to_dict(rows, options, images))
    artifacts.write_bytes(folder / MARKDOWN_NAME, markdown(rows, options, images).encode())


def _of_networks(rows: Sequence[Row]) -> bool:
    """Whether HEMF's networks are compared, and not recipes of one."""
    if not all(isinstance(row.config, HemfConfig) for row in rows):
        return False  # whose parts have other names
    return len(rows) == 1 or len({row.configuration.variant for row in rows}) > 1


def figure(row: Row, name: str) -> str:
    """Format a row's mean of a share of `TITLES` in percent, with its deviation; or why there is none."""
    if name not in row.mean:
        statuses = {outcome.status for outcome in row.outcomes if outcome.error is not None}
        return "diverged" if statuses == {"diverged"} else "failed" if statuses else ""
    deviation = f" ± {100 * row.deviation[name]:.2f}" if row.deviation else ""
    return f"{100 * row.mean[name]:.2f}{deviation}"


def seeds(rows: Sequence[Row]) -> str:
    """Say in a sentence which seeds the figures are of."""
    own = list(dict.fromkeys(outcome.member.seed for row in rows for outcome in row.outcomes))
    if len(own) < 2:
        return f"Seed {own[0]}."
    return f"Mean ± standard deviation over the seeds {', '.join(map(str, own))}."


def _row_to_dict(row: Row, split: str, options: Options, images: Images) -> dict[str, Any]:
    printed = published_row(row, options, images)
    return {
        "name": row.configuration.name,
        "variant": row.configuration.variant,
        "components": components(row.configuration.variant)._asdict() if isinstance(row.config, HemfConfig) else None,
        "network": row.config.to_dict(),
        "parameters": row.parameters,
        "recipe": {name: value for name, value in row.configuration.recipe.to_dict().items() if name != "seed"},
        "runs": [_outcome_to_dict(outcome, split) for outcome in row.outcomes],
        "mean": row.mean,
        "standard_deviation": row.deviation,
        "published": None if printed is None else printed._asdict(),
    }


def _outcome_to_dict(outcome: Outcome, split: str) -> dict[str, Any]:
    summary = outcome.summary or {}
    return {
        "seed": outcome.member.seed,
        "folder": outcome.member.folder.name,
        "status": outcome.status,
        "epoch": summary.get("epoch"),
        "checkpoint_sha256": summary.get("checkpoint_sha256"),
        "figures": outcome.figures(split),
        "error": None if outcome.error is None else str(outcome.error) or type(outcome.error).__name__,
    }
