"""Options from a TOML file, and the options of a run written as one."""

import inspect
import json
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

# TOML types accepted for an option of each type, in words; options of other types take a string.
_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


def _load(ctx: Any, path: Path | None) -> Path | None:
    """Make the values in the file the defaults of the command's options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: {' '.join(str(error).split())}") from None
    hints = typing.get_type_hints(inspect.unwrap(ctx.command.callback))
    options = {p.name: p for p in ctx.command.params if p.name not in (None, "config", "help")}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = next((n for n in options if key.replace("-", "_") in (n, _key(options[n]))), None)
        if name is None:
            keys = ", ".join(sorted(_key(p) for p in options.values()))
            raise typer.BadParameter(f"{path}: unknown option {key!r}; choose from {keys}")
        # The first type of `float | None`.
        hint = next(iter(typing.get_args(hints[name])), hints[name])
        if typing.get_origin(hint) is list:
            types, words = (list,), "a list of strings"
        else:
            types, words = _TYPES.get(hint, ((str,), "a string in quotes"))
        if not isinstance(value, types) or (bool not in types and isinstance(value, bool)):
            raise typer.BadParameter(f"{path}: {key} = {value!r} must be {words}")
        defaults[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


def _key(option: Any) -> str:
    """Name of an option in the file: `class_column` for `--class-column`."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_load,
        is_eager=True,
        help="TOML file with values of options, such as width = 64. Options on the command line "
        "take precedence. Each run keeps its own options as run.toml.",
    ),
]


def to_toml(values: dict[str, Any]) -> str:
    """Format strings, numbers and booleans as TOML; entries that are None are left out."""
    # JSON and TOML write these values alike, except for the character DEL.
    texts = {k: json.dumps(v, ensure_ascii=False) for k, v in values.items() if v is not None}
    return "".join(f"{k} = {text}\n" for k, text in texts.items()).replace("\x7f", "\\u007f")
