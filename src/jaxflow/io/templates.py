"""The arrays of a file in a template, a tree of the same structure."""

from collections.abc import Callable
from typing import Any

import jax

from jaxflow.io.arrays import Arrays, Entries, describe, is_array, unpack


def named_arrays(tree: Any, name: Callable[[tuple], str]) -> dict[str, Any]:
    """The array leaves of a tree by name, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = [(name(path), leaf) for path, leaf in leaves if is_array(leaf)]
    by_name = dict(arrays)
    if len(by_name) < len(arrays):
        raise ValueError(f"arrays of the tree share a name; their names are {[*by_name]}")
    return by_name


def fill(like: Any, table: Entries, stored: Arrays, name: Callable[[tuple], str]) -> Any:
    """A copy of the template `like` with the arrays of a file; all else stays the template's."""
    wanted = named_arrays(like, name)
    for key, entry in table.items():
        if key not in wanted and not entry.get("static", False):
            raise ValueError(
                f"the file has an array '{key}' and the template has none there "
                f"({len(table)} arrays in the file, {len(wanted)} in the template)"
            )
    arrays = {}
    for key, leaf in wanted.items():
        if key not in table or key not in stored:
            raise ValueError(
                f"the template has an array '{key}' and the file has none there "
                f"({len(wanted)} arrays in the template, {len(table)} in the file)"
            )
        entry, want = table[key], describe(leaf, key)
        for attribute in ("shape", "dtype"):
            if entry[attribute] != want[attribute]:
                raise ValueError(
                    f"'{key}' has {attribute} {_show(entry[attribute])} in the file and "
                    f"{_show(want[attribute])} in the template"
                )
        arrays[key] = unpack(stored[key], entry, key, want)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: arrays[name(path)] if is_array(leaf) else leaf, like
    )


def _show(attribute: Any) -> Any:
    return tuple(attribute) if isinstance(attribute, list) else attribute
