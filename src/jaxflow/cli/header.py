"""Whether the first line of a text table is its header: the option, or else as in the run."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from jaxflow.data.delimited import TEXT, first_line

Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line of a text table has the names of its columns. Default: as in "
        "the run; for a fit, a header if one of its cells is not a number.",
    ),
]


def with_header(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: `--header` says how its table is read, or else the record of its run."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        header, table = kwargs.get("header"), kwargs.get("table")
        if header is not None and table is not None and table.suffix.lower() not in TEXT:
            raise ValueError(
                f"--{'' if header else 'no-'}header is for text tables ({', '.join(TEXT)}), and "
                f"not for {table}: leave it out"
            )
        with first_line(table, is_header=header):
            command(*args, **kwargs)

    return run
