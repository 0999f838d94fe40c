"""The `jaxflow` program. A command's module, and with it jax, loads when that command runs."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from jaxflow import __version__
from jaxflow.cli.terminal import use_json

# The module of each command, which holds a function of that name, and the first line of its
# docstring.
COMMANDS = {
    "fit": ("jaxflow.cli.fit", "Fit a probability density to a table or to images."),
    "score": ("jaxflow.cli.score", "Write the log-density of each row of a table."),
    "sample": ("jaxflow.cli.sample", "Draw new rows from a fitted density."),
    "check": ("jaxflow.cli.check", "Test how far the results of a run can be trusted."),
    "distil": ("jaxflow.cli.distil", "Train a fast approximation of a run's flow."),
    "shards": ("jaxflow.cli.shards", "Convert tables that do not fit in memory for jaxflow fit."),
    "info": ("jaxflow.cli.info", "Show the data, model and quality of a run."),
    "demo": ("jaxflow.cli.demo", "Train flows on two example data sets and draw them."),
}


def load_command(name: str) -> Any:
    """Import a command and wrap it so that its errors are one line."""
    from jaxflow.cli.errors import report_errors  # imports jax
    from jaxflow.cli.header import with_header

    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command = getattr(import_module(COMMANDS[name][0]), name)
    single.command(name)(report_errors(with_header(command)))
    return get_command(single)


class LazyGroup(TyperGroup):
    """A group whose commands are listed from `COMMANDS` and imported when they run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run; raises a usage error for an unknown name.

        `--json` may come after the command too.
        """
        if "--json" in args:
            ctx.params["as_json"] = True
            args = [arg for arg in args if arg != "--json"]
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and load_command(str(name)), rest


app = typer.Typer(
    name="jaxflow",
    cls=LazyGroup,
    help="Fit the probability density of a table, score rows and draw new ones.",
    epilog="Exit codes: 0 success, 1 computation failed, 2 invalid input, 130 interrupted. Errors "
    "are one line; set JAXFLOW_TRACEBACK=1 for the traceback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _listed() -> None:
    """Stand for a command in the help."""


for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_listed)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"jaxflow {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results as one JSON object, for programs.")
    ] = False,
) -> None:
    """Handle the options that come before the command."""
    use_json(as_json)
