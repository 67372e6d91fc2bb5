"""Show the examples in help texts as code in the command reference, where they would be one paragraph."""

import inspect
import re

import click

from hemf_export import cli

# Click leaves the lines of a paragraph that begins with a backspace as they are.
VERBATIM = re.compile(r"^\x08\n(.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def on_startup(**_: object) -> None:
    """Put the verbatim paragraphs of each help text into a code block."""
    for command in (cli.cli, *(cli.cli.get_command(None, name) for name in cli.COMMANDS)):
        if isinstance(command, click.Command) and command.help:
            command.help = VERBATIM.sub(r"```text\n\1\n```", inspect.cleandoc(command.help))
