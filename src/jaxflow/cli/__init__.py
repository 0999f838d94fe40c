"""The command line, a command a file."""

import importlib.util
import sys


def main() -> None:
    """Run the command line, or say in one line what it needs."""
    if importlib.util.find_spec("typer") is None:
        print("the command line needs: pip install 'jaxflow-cnf[cli]'", file=sys.stderr)
        raise SystemExit(1)
    from jaxflow.cli.app import app

    app()
