"""The `jaxflow` program: its commands and its version. Importing it loads no jax."""

import importlib
import importlib.util
from typing import Annotated

import typer

from jaxflow.cli.check import check
from jaxflow.cli.distil import distil
from jaxflow.cli.fit import fit
from jaxflow.cli.info import info
from jaxflow.cli.reports import reported, use_json
from jaxflow.cli.sample import sample
from jaxflow.cli.score import score
from jaxflow.cli.shards import shards

app = typer.Typer(
    name="jaxflow",
    help="Fit the probability density of a table of numbers; score rows by it and draw new ones.",
    epilog="Errors are one line; with JAXFLOW_TRACEBACK=1 in the environment, a full traceback. "
    "Exit codes: 0 done, 1 a computation failed, 2 the input was refused, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (fit, score, sample, check, distil, shards, info):
    app.command()(reported(command))
if importlib.util.find_spec("jaxflow.cli.demo") is not None:
    app.command()(reported(importlib.import_module("jaxflow.cli.demo").demo))


def _show_version(wanted: bool) -> bool:
    if wanted:
        from jaxflow import __version__

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
        bool,
        typer.Option(
            "--json", help="Write results as one JSON object, numbers in place of words."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""
    use_json(as_json)
