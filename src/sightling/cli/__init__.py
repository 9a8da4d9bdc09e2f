"""The ``sightling`` command. A command is one line in :data:`COMMANDS` and one file of its name here.

The file offers ``app``, a typer application, and is imported only when its command is invoked: ``sightling
--help`` stays fast, and a command pays for its own imports only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sightling.errors import UserError

COMMANDS = {
    "train": "Grow a model by a recipe, or go on where it stopped.",
    "plan": "Tell what a training by a recipe will need: memory, tokens, operations, time.",
    "recipes": "List the recipes that come with sightling.",
    "evaluate": "Measure what a model sees, and write a report.",
    "study": "Compare variants of a recipe over several seeds, with intervals and verdicts.",
    "chat": "Talk with a model about pictures, in the terminal.",
    "ask": "Ask a model one question about a picture; --json for scripts.",
    "inspect": "Draw how a picture becomes tokens, and print the exact prompt.",
    "export": "Write a model in another project's layout, or one of theirs in ours.",
    "merge": "Put a LoRA or DoRA adapter into the weights of its model.",
    "data": "Look at a data set: what it is, what is wrong with it, what a model would see.",
}
"""Commands in the order of the help, each with its one line; ``sightling.cli.<name>`` does the work."""


class LazyGroup(TyperGroup):
    """Knows its commands by name and one line; the rest of a command is imported when it is invoked."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=line)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command to run, with its parameters, where the listing needs its name alone."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, command, rest
        command = typer.main.get_command(import_module(f"sightling.cli.{name}").app)
        command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    name="sightling",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from sightling import __version__

        typer.echo(f"sightling {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow, align, evaluate and serve vision-language models."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for bad input (one line says what), 130 or 143 when told to stop."""
    # Not heavy: neither imports torch.
    from sightling.train.stopping import Interrupted

    command = typer.main.get_command(app)
    try:
        command.main(args=None if argv is None else list(argv), prog_name="sightling")
    except UserError as error:
        _line(f"error: {error}", typer.colors.RED)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        _line(str(stop), typer.colors.YELLOW)
        sys.exit(stop.exit_code)
    except SystemExit as end:
        # typer has turned Ctrl-C into this.
        if end.code == 130:
            _line("stopped; the same command starts again, and a training goes on where it was", typer.colors.YELLOW)
        raise


def _line(text: str, color: str) -> None:
    typer.secho(" ".join(text.split()), fg=color, err=True)
