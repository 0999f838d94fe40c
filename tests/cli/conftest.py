"""A table, the program in this process, and one run that all tests may look at."""

import numpy as np
import pytest
from typer.testing import CliRunner

from jaxflow.cli.app import app

# All fits of one kind share these, and with them their compiled code. With an objective they take
# the path of large tables, which is checkpointed.
TINY = ("--width", 8, "--steps", 20, "--objective", "staged")


@pytest.fixture(scope="session")
def jaxflow():
    """The program as a function of its arguments; the result has exit_code, stdout, stderr."""

    def run(*args):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def values():
    """200 rows of two columns that depend on each other."""
    a, noise = np.random.default_rng(0).normal(size=(2, 200))
    return np.stack([a, a**2 + 0.3 * noise + 5], axis=1)


@pytest.fixture(scope="session")
def table(tmp_path_factory, values):
    """The rows as CSV with a header."""
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    write_csv(path, values, "a,b")
    return path


@pytest.fixture(scope="session")
def fit(jaxflow, table):
    """`jaxflow fit` of a tiny flow to a folder."""

    def run(out, *args, table=table):
        return jaxflow("fit", table, "--out", out, *TINY, *args)

    return run


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, fit):
    """A finished run, not to be changed, and what its fit printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = fit(out)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture(scope="session")
def write():
    """Write rows as CSV, with the header given or without one."""
    return write_csv


def write_csv(path, values, header=None):
    lines = [] if header is None else [header]
    lines += [",".join(repr(float(value)) for value in row) for row in values]
    path.write_text("\n".join(lines) + "\n")
    return path
