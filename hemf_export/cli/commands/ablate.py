"""`hemf-export ablate`: configurations trained one after another, and the table of what each reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hemf_export.cli.commands.train import command as train_command
from hemf_export.cli.options import PATH, SEEDS, Command, json_option
from hemf_export.cli.recipe_options import SECTIONS, given_recipe
from hemf_export.files.errors import HemfError, UsageError
from hemf_export.train.recipe import Recipe

if TYPE_CHECKING:
    from hemf_export.train.ablation import Outcome

# Each member's own; everything else of `train` is taken here too, with the same defaults.
_OWN = ("data", "output", "variant", "resume", "print_recipe", "tensorboard", "as_json")


@click.command("ablate", cls=Command, groups=SECTIONS)
@click.argument("data", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The folder of the run folders.")
@click.option("--configs", type=PATH, metavar="FILE.toml",
              help="Configurations to compare.  [default: the seven rows of the paper's Table 10]")  # fmt: skip
@click.option("--seeds", type=SEEDS, help="Train each configuration with each of these seeds.")
@json_option("results")
@click.pass_context
def command(
    context: click.Context, /, data: Path, output: Path, configs: Path | None, seeds: tuple[int, ...] | None,
    as_json: bool, recipe_source: str | None, **training: Any,
) -> None:  # fmt: skip
    """Train several configurations on DATA one after another, each in OUTPUT/NAME, and compare them on test/.

    By default they are the rows of the paper's Table 10: one branch, both, and what fuses them, step by step. A TOML
    file lists others: [[configuration]] with name, variant (see train --variant) and any field of the recipe; what
    it leaves out comes from the options here, and from --recipe.

    Run again, finished configurations are taken as they are, and one that was interrupted goes on. One that fails
    doesn't stop the others; it is told at the end. OUTPUT/ablation.json and ablation.md have the results so far.
    """
    if seeds is not None and context.get_parameter_source("seed") is ParameterSource.COMMANDLINE:
        raise UsageError("--seed and --seeds together say two things.", "Leave one out.")
    from hemf_export.cli import ablation_report as report
    from hemf_export.cli import console, next_step
    from hemf_export.cli.progress import ConsoleProgress
    from hemf_export.files import locks
    from hemf_export.train import ablation, configurations
    from hemf_export.train.run import Options

    fields = Recipe().to_dict()
    recipe = given_recipe(context, recipe_source, {name: training[name] for name in fields})
    options = Options(data, output, **{name: value for name, value in training.items() if name not in fields})
    listed = configurations.read(configs, recipe) if configs else configurations.table_10(recipe)
    members = ablation.plan(listed, output, seeds)

    progress = ConsoleProgress(_Members())
    with locks.owned(output, *(member.folder for member in members)):
        images = ablation.check(members, options, progress)
        for note in images.notes:
            console.warn(note)
        if images.test is None:
            console.warn(f"{data} has no test/: the figures are of val/, which also chose the best epoch of each run.")

        def write(outcomes: list[Outcome]) -> None:
            report.write(ablation.rows(outcomes, options, images), options, images, output)

        outcomes = ablation.run(members, options, images, progress, write)
    rows = ablation.rows(outcomes, options, images)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        if not as_json:
            _print(report, rows, options, images)
        _refuse(failed, len(outcomes), output)
    if as_json:
        console.print_json(report.to_dict(rows, options, images))
        return
    _print(report, rows, options, images)
    console.say(f"{output}: {report.JSON_NAME}, {report.MARKDOWN_NAME}, and a folder for each run")
    best = max(outcomes, key=lambda outcome: outcome.summary["splits"]["val"]["accuracy"] if outcome.summary else -1.0)
    next_step.show(best.member.folder / "best.pt")


command.params += [option for option in train_command.params if option.name not in _OWN]


def _print(report: Any, rows: Any, options: Any, images: Any) -> None:
    from hemf_export.cli import console

    titles, cells = report.columns_and_cells(rows, options, images)
    console.table(report.title(options, images), titles, cells)


def _refuse(failed: list[Outcome], total: int, output: Path) -> None:
    """End with the code of the first failure. A defect of ours is raised as it came, so that --debug shows where."""
    from hemf_export.cli import ablation_report as report
    from hemf_export.cli import console

    for outcome in failed:
        if not isinstance(outcome.error, HemfError):
            assert outcome.error is not None
            console.warn(report.failure(outcome))
            raise outcome.error
    names = ", ".join(outcome.member.folder.name for outcome in failed)
    reasons = "\n  ".join(str(outcome.error) for outcome in failed)
    error = HemfError(
        f"{len(failed)} of {total} runs failed ({names}):\n  {reasons}",
        f"{output / report.JSON_NAME} has what the others reached. Run the same command again to try these anew.",
    )
    error.exit_code = failed[0].error.exit_code  # type: ignore[union-attr]
    raise error


class _Members:
    """Prints which run of how many goes on, its epochs, and what it came to."""

    def __init__(self) -> None:
        from hemf_export.cli.commands.train import EpochLines

        self._epochs = EpochLines()
        self._label = ""

    def __call__(self, event: object) -> None:
        from hemf_export.cli import console
        from hemf_export.cli.commands.train import EpochLines
        from hemf_export.train.ablation import MemberBegun, MemberTrains, Outcome

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
        from hemf_export.cli import ablation_report as report
        from hemf_export.cli import console

        if outcome.summary is None:
            console.warn(f"{self._label}: {report.failure(outcome)}")
            return
        split = "test" if "test" in outcome.summary["splits"] else "val"
        accuracy = outcome.summary["splits"][split]["accuracy"]
        console.say(f"{self._label}: {outcome.status}, {split} {accuracy:.2%} (epoch {outcome.summary['epoch']})")
