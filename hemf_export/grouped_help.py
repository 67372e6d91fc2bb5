"""A command whose `--help` shows some of its options under headings of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click


class GroupedCommand(click.Command):
    """A click command with sections of options, after those that are in no section.

    Args:
        groups: heading → names of parameters.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Collection[str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        grouped = {name for names in self.groups.values() for name in names}
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = [(each.name, record) for each in options if (record := each.get_help_record(ctx)) is not None]
        sections = {"Options": [record for name, record in records if name not in grouped]}
        for heading, names in self.groups.items():
            sections[heading] = [record for name, record in records if name in names]
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)
