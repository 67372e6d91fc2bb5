"""`hemf-export ablate`: train configurations one after another, and compare them in a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import hemf_export
from hemf_export.cli.commands.train import command as train_command
from hemf_export.cli.options import PATH, SEEDS, Command, Number, json_option, search_for
from hemf_export.cli.recipe_options import DEFAULTS, SECTIONS, given_recipe
from hemf_export.files.errors import HemfError, UsageError
from hemf_export.metrics.percentage import percentage

if TYPE_CHECKING:
    from hemf_export.api.events import Outcome

# Set by each configuration; all other options of `train` are accepted, with the same defaults.
_OWN = ("data", "output", "variant", "init", "init_model", "resume", "print_recipe", "tensorboard", "as_json")


@click.command("ablate", cls=Command, groups=SECTIONS)
@click.argument("data", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Folder for the runs.")
@click.option("--configs", type=PATH, metavar="FILE.toml",
              help="Configurations to compare.  [default: the seven rows of the paper's Table 10]")  # fmt: skip
@click.option(
    "--bench-seconds",
    type=Number(most=1e6),
    default=30.0,
    show_default=True,
    help="Time limit for timing different networks side by side; 0 for no timing.",
)
@click.option("--seeds", type=SEEDS, help="Train each configuration with each of these seeds.")
@json_option("results")
@click.pass_context
def command(
    context: click.Context, /, data: Path, output: Path, configs: Path | None, bench_seconds: float,
    seeds: tuple[int, ...] | None, as_json: bool, recipe_source: str | None, **training: Any,
) -> None:  # fmt: skip
    """Train several configurations on DATA one after another, each in OUTPUT/NAME, and compare them on test/.

    By default they are the rows of the paper's Table 10: one branch, both, and the modules that fuse them, step by
    step. A TOML file lists others: [[configuration]] with name, model, variant (see train --variant), recipe and any
    field of the recipe; the other fields come from the options here, and from --recipe.

    Different networks are compared as in Tables 6 to 9: parameters and multiply-adds, metrics, the latency of each on
    this machine, side by side, and McNemar's exact test between all pairs.

    A second run reuses finished configurations and continues an interrupted one. A configuration that fails doesn't
    stop the others, and is named at the end. OUTPUT/ablation.json and ablation.md hold the results so far.
    """
    if seeds is not None and context.get_parameter_source("seed") is ParameterSource.COMMANDLINE:
        raise UsageError("--seed and --seeds exclude each other.", "Leave one out.")
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress

    recipe = given_recipe(context, recipe_source, {name: training.pop(name) for name in DEFAULTS})
    if configs is not None:
        search_for(configs)
    ablation = hemf_export.ablate(
        data, output, configurations=configs, bench_seconds=bench_seconds, seeds=seeds, recipe=recipe,
        preprocess=training.pop("mode"), progress=ConsoleProgress(_Members()), **training,
    )  # fmt: skip
    if not as_json:
        for table in ablation.parts or (ablation.table,):
            console.table(table.title, table.columns, table.rows, words=table.words)
        for note in ablation.values.get("notes", ()):
            console.say(note)
    if ablation.failures:
        _refuse(ablation)
    if as_json:
        console.print_json(ablation.to_dict())
        return
    console.say(f"{output}: ablation.json, ablation.md, and a folder for each run")
    assert ablation.best is not None, "nothing failed"
    next_step.show(ablation.best)


command.params += [option for option in train_command.params if option.name not in _OWN]


def _refuse(ablation: hemf_export.Ablation) -> None:
    """End with the code of the first failure. A defect of ours is raised unchanged, for --debug."""
    from hemf_export.cli import console

    for failed in ablation.failures:
        if not isinstance(failed.error, HemfError):
            console.warn(failed.reason)
            raise failed.error
    names = ", ".join(failed.name for failed in ablation.failures)
    reasons = "\n  ".join(str(failed.error) for failed in ablation.failures)
    total = sum(len(row["runs"]) for row in ablation.values["configurations"])
    error = HemfError(
        f"{len(ablation.failures)} of {total} runs failed ({names}):\n  {reasons}",
        f"{ablation.path / 'ablation.json'} has the results of the others. Run the same command again to retry these.",
    )
    error.exit_code = ablation.failures[0].error.exit_code  # type: ignore[attr-defined]
    raise error


class _Members:
    """Event handler that prints the number of the run, its epochs and its result."""

    def __init__(self) -> None:
        from hemf_export.cli.commands.train import EpochLines

        self._epochs = EpochLines()
        self._label = ""

    def __call__(self, event: object) -> None:
        from hemf_export.api.events import MemberBegun, MemberTrains, Outcome
        from hemf_export.cli import console
        from hemf_export.cli.commands.train import EpochLines

        match event:
            case MemberBegun(member, number, total):
                self._label = f"[{number}/{total}] {member.folder.name}"
                self._epochs = EpochLines()
            case MemberTrains(headline):
                console.say(f"{self._label}: {headline}")
            case Outcome():
                self._show(event)
            case _:
                self._epochs(event)

    def _show(self, outcome: Outcome) -> None:
        from hemf_export.cli import console

        if outcome.summary is None:
            console.warn(f"{self._label}: {outcome.failure}")
            return
        split = "test" if "test" in outcome.summary["splits"] else "val"
        metrics, epoch = outcome.summary["splits"][split], outcome.summary["epoch"]
        accuracy = percentage(metrics["accuracy"], metrics["images"])
        console.say(f"{self._label}: {outcome.status}, {split} {accuracy} (epoch {epoch})")
