"""The command line, a command a file."""

import importlib.util
import sys

from jaxflow.runtime.extras import install_extra


def main() -> None:
    """Run the command line, or say in one line what it needs."""
    if importlib.util.find_spec("typer") is None:
        print(f"the command line needs typer: {install_extra('cli')}", file=sys.stderr)
        raise SystemExit(1)
    from jaxflow.cli.app import app

    app()
