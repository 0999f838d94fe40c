"""MkDocs hook: `<!-- README: ## TITLE -->` becomes the section of that title in README.md."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError


def on_page_markdown(markdown: str, config: MkDocsConfig, **kwargs: Any) -> str:
    """Put in the sections, their links led to the site's pages."""
    readme = (Path(config.config_file_path).parent / "README.md").read_text()

    def section(name: re.Match[str]) -> str:
        found = re.search(rf"^{re.escape(name[1])}\n.*?(?=^## )", readme, re.DOTALL | re.MULTILINE)
        if found is None:
            raise PluginError(f"README.md has no section {name[1]}")
        # Within code GitHub wants a bar escaped, and this Markdown does not.
        return found[0].replace("](docs/", "](").replace(r"\|", "|")

    return re.sub("^<!-- README: (.*) -->$", section, markdown, flags=re.MULTILINE)
