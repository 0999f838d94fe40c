"""The command line: one command per file, listed in `jaxflow.cli.app`."""

import importlib.util
import sys

from jaxflow.runtime.extras import install_extra


def main() -> None:
    """Run the program; without its packages, print how to install them and exit with code 1."""
    for package in ("typer", "polars"):
        if importlib.util.find_spec(package) is None:
            print(f"the command line needs {package}: {install_extra('cli')}", file=sys.stderr)
            raise SystemExit(1)
    from jaxflow.cli.app import app

    app()
