"""MkDocs hook: links to functions in the source become links to their lines.

A page links to a function by name and file, which also works where the repository is browsed:

    [`odeint`](../src/jaxflow/ode/odeint.py)

The site has a page for each file so linked, and the link leads to the line of the definition. No
line number is written down, so none goes stale; a name that is not in its file fails the build.
"""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

LINK = re.compile(r"\[`([\w.]+)(\([^`\]]*\))?`\]\(((?:\.\./)+)(src/jaxflow/[\w/]+\.py)\)")
FOLDER = "source"


def line_of(path: Path, name: str) -> int:
    """The line that defines `name`, a function, class, method or module-level constant."""
    body = ast.parse(path.read_text()).body
    line = 0
    for part in name.split("."):
        found = [node for node in body if part in _names(node)]
        if not found:
            raise PluginError(f"{path} has no {name}, to which a page links")
        line, body = found[0].lineno, getattr(found[0], "body", [])
    return line


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    return [ast.unparse(each) for each in node.targets] if isinstance(node, ast.Assign) else []


def page_of(path: str) -> str:
    """The site's page of a file."""
    return f"{FOLDER}/{path.removeprefix('src/').removesuffix('.py')}.md"


def to_markdown(path: str, code: str) -> str:
    """The page of a file: its code with numbered lines."""
    title = path.removeprefix("src/")
    top = f"---\nsearch:\n  exclude: true\n---\n# {title}\n\n"
    return f'{top}````{{.python linenums="1"}}\n{code}````\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file to which a page links."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    linked = {link[4] for page in docs.rglob("*.md") for link in LINK.finditer(page.read_text())}
    for path in sorted(linked):
        page = to_markdown(path, (root / path).read_text())
        files.append(File.generated(config, page_of(path), content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to the lines of the site's own pages."""
    root = Path(config.config_file_path).parent

    def to_line(link: re.Match[str]) -> str:
        name, call, _, path = link.groups()
        target = files.get_file_from_path(page_of(path))
        assert target is not None
        url = get_relative_url(target.url, page.url)
        # As HTML: MkDocs knows of no anchors within a block of code.
        href = f"{url}#__codelineno-0-{line_of(root / path, name)}"
        return f'<a href="{href}"><code>{name}{call or ""}</code></a>'

    return LINK.sub(to_line, markdown)
