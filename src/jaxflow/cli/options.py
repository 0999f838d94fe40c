"""Options and arguments that several commands share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

# Title of the options in `--help` that few people need.
EXPERTS = "Experts"
MAX_SEED = 2**32 - 1

Run = Annotated[Path, typer.Argument(help="Run directory that jaxflow fit made.")]
Seed = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Random seed. The same seed repeats the result.")
]
DropNan = Annotated[
    bool, typer.Option("--drop-nan", help="Skip rows with NaN, infinity or empty cells.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it already exists.")
]
ClassName = Annotated[
    str | None, typer.Option("--class", help="One of the classes that the run was fitted to.")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Scale of classifier-free guidance, for diffusion models with classes and images "
        "with labels: 0 ignores the class, 1 follows the model, larger values exaggerate it."
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Use the approximation that jaxflow distil trained: a few network evaluations "
        "instead of an ODE solve.",
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(
        help="Number of devices to split the rows over, counted over all processes. Default: 1, "
        "or all devices with --coordinator.",
        rich_help_panel=EXPERTS,
    ),
]


def choice(
    help: str, choices: Mapping[str, str], option: Callable[..., Any] = typer.Option
) -> Any:
    """An option with one of `choices` (name -> description), listed and completed by the shell."""
    described = "; ".join(f"{name}: {text}" for name, text in choices.items() if text)
    return option(
        help=f"{help} {described}.",
        metavar="|".join(choices),
        autocompletion=lambda incomplete: [n for n in choices if n.startswith(incomplete)],
    )


def check_choice(option: str, value: str, choices: Mapping[str, str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{option} {value} is unknown; choose one of {', '.join(choices)}")
