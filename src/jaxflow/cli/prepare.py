"""What `jaxflow fit` reads, and the function that trains on it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxflow.cli.given import read_given
from jaxflow.cli.images import fit_image_run, read_image_rows
from jaxflow.cli.mixed import fit_mixed, read_mixed, read_numbers, split_kinds
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.shards import fit_shards, shards_record
from jaxflow.cli.table_fit import fit_by_default, fit_table, read_table_rows
from jaxflow.cli.target_fit import fit_target, target_record
from jaxflow.cli.training import NewRun
from jaxflow.data import Table
from jaxflow.transforms.groups import is_group

# Trains and fills the run directory; returns the record with the results.
Train = Callable[[NewRun], dict[str, Any]]


def check_by_default(data: FitData, *, by_default: bool) -> None:
    """Raise ValueError for options that need a table and the default model."""
    if data.given is not None and (not by_default or data.kind or data.null):
        raise ValueError(
            f"--given {','.join(data.given)} needs the default model and a table of numbers: "
            "leave out options of the model, --class-column, --from, --devices, --kind and --null"
        )
    if (data.kind or data.null) and not by_default:
        raise ValueError(
            f"--{'kind' if data.kind else 'null'} needs a table and the default model: leave out "
            "options of the model, --class-column, --from and --devices"
        )


def prepare(
    data: FitData, settings: FitSettings, *, images: bool, by_default: bool
) -> tuple[dict[str, Any], Train]:
    """Read the data; returns the record of the run, and how to train on them."""
    if settings.objective == "reverse-kl":
        return target_record(data, settings), partial(fit_target, str(data.table))
    if images:
        x, cond, record = read_image_rows(data, settings)
        return record, partial(fit_image_run, x, cond)
    if data.table.is_dir():
        return shards_record(data, settings), partial(fit_shards, data.table)
    if not by_default:
        x, cond, record = read_table_rows(data, settings)
        return record, partial(fit_table, x, cond)
    if data.given is not None:
        x, cond, record = read_given(data, settings)
    elif (numbers := _continuous_numbers(data)) is not None:
        x, cond, record = read_table_rows(data, settings, numbers)
    else:
        cells, record = read_mixed(data, settings)
        return record, partial(fit_mixed, cells)
    return record, partial(fit_by_default, x, cond, data.kind)


def _continuous_numbers(data: FitData) -> Table | None:
    """The table if a flow alone is fitted to it; None to fit by the kinds of its columns."""
    kinds = split_kinds(data.kind)
    groups = {name: kind for name, kind in kinds.items() if is_group(kind)}
    numbers = None
    if len(groups) == len(kinds) and not data.null:
        numbers = read_numbers(data.table, data.columns, whole=not groups, drop_nan=data.drop_nan)
    curved = [each for each in groups.items() if not each[1].startswith("periodic")]
    if curved and numbers is None:
        name, kind = curved[0]
        raise ValueError(
            f"--kind {name}={kind} is for tables of numbers alone, and {data.table} has text, "
            "gaps or constants, or another --kind or --null: choose the numbers by --columns, or "
            "add --drop-nan"
        )
    return numbers
