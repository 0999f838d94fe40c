"""Options from a TOML file, and the options of a run as one."""

import inspect
import json
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

# What a TOML value may be for a parameter of each type; the rest are texts.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


def _load(ctx: Any, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options."""
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: {' '.join(str(error).split())}") from None
    hints = typing.get_type_hints(inspect.unwrap(ctx.command.callback))
    options = {p.name: p for p in ctx.command.params if p.name not in (None, "config", "help")}
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = next((n for n in options if key.replace("-", "_") in (n, _long(options[n]))), None)
        if name is None:
            there = ", ".join(sorted(_long(p) for p in options.values()))
            raise typer.BadParameter(f"{path}: no option {key!r}; there are {there}")
        # `float | None` is a float, or absent.
        hint = next(iter(typing.get_args(hints[name])), hints[name])
        kinds, words = _KINDS.get(hint, ((str,), "a text in quotes"))
        if not isinstance(value, kinds) or (bool not in kinds and isinstance(value, bool)):
            raise typer.BadParameter(f"{path}: {key} = {value!r} must be {words}")
        values[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def _long(option: Any) -> str:
    """An option's name on the command line: `--class-column` is class_column."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_load,
        is_eager=True,
        help="TOML file of options, such as width = 64; those of the command line come first. A "
        "run keeps its own as run.toml.",
    ),
]


def toml(values: dict[str, Any]) -> str:
    """A flat table of texts, numbers and truth values as TOML; None is left out."""
    # A JSON text, number or truth value is a TOML one, but for one character.
    texts = {k: json.dumps(v, ensure_ascii=False) for k, v in values.items() if v is not None}
    return "".join(f"{k} = {text}\n" for k, text in texts.items()).replace("\x7f", "\\u007f")
