"""MkDocs hook: reference pages list their names in order of use.

A block of a page

    ```names jaxflow.ode
    ODE
    odeint
    ```

becomes a table of these names with the first sentence of each docstring, and the documentation
of each. Names of the package's `__all__` that the block leaves out follow. After a colon,
`CNF: log_prob sample`, stand the members of a class to show first; its other members follow.
"""

import functools
import re
from typing import Any

import griffe
from mkdocs.exceptions import PluginError

BLOCK = re.compile(r"^```names (\S+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@functools.cache
def source() -> griffe.Object | griffe.Alias:
    """The package, read but not imported."""
    return griffe.load("jaxflow", search_paths=["src"], resolve_aliases=True)


def _package(name: str) -> griffe.Object | griffe.Alias:
    """The package or module `name`."""
    return source()[name.removeprefix("jaxflow").removeprefix(".")] if "." in name else source()


def look_up(path: str) -> tuple[str, griffe.Object]:
    """The path to document `path` by, and the object that is there."""
    found = source()[path.removeprefix("jaxflow.")]
    name = path.rsplit(".", 1)[1]
    if found.is_module and name in found.members:
        # A function hides the module of its own name: `jaxflow.diagnostics.diagnose`.
        path, found = f"{path}.{name}", found[name]
    return path, found.final_target if isinstance(found, griffe.Alias) else found


def summary(found: griffe.Object) -> str:
    """The first paragraph of the docstring, as the cell of a table."""
    if found.docstring is None:
        return ""
    paragraph = " ".join(found.docstring.value.split("\n\n")[0].split())
    return paragraph.replace("|", r"\|")


def members_of(found: griffe.Object, first: list[str]) -> list[str]:
    """The members to document: those in `first`, then all others with a docstring."""
    others = found.all_members
    if unknown := set(first) - set(others):
        raise PluginError(f"{found.path} has no {', '.join(unknown)}")
    rest = [each for each, member in others.items() if member.is_public and member.docstring]
    return list(dict.fromkeys([*first, *rest]))


def expand(package: str, lines: str) -> str:
    """The table and the documentation of the names in `lines`."""
    rows, blocks = ["| name | what it is |", "| --- | --- |"], []
    listed = lines.splitlines()
    exported = _package(package).exports or []
    others = {str(each) for each in exported} - {each.split(":")[0] for each in listed}
    for line in [*listed, *sorted(others)]:
        name, _, first = line.partition(":")
        public = f"{package}.{name.strip()}"
        try:
            path, found = look_up(public)
        except (KeyError, griffe.AliasResolutionError) as error:
            raise PluginError(f"the reference lists {public}, which does not exist") from error
        rows.append(f"| [`{found.name}`][{path}] | {summary(found)} |")
        options = [f"heading: {public}"]
        if first:
            options.append(f"members: {members_of(found, first.split())}")
        blocks.append(f"::: {path}\n    options:\n" + "".join(f"      {o}\n" for o in options))
    return "\n".join(rows) + "\n\n" + "\n".join(blocks)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Expand the blocks of a page."""
    return BLOCK.sub(lambda match: expand(match[1], match[2]), markdown)
