"""MkDocs hook: each notebook becomes a page, with the outputs that are stored in it.

Nothing is executed. Text cells go through the site's own Markdown, so formulas, links and the
dark mode work as on every other page. Links in a notebook are those of the repository, to other
notebooks and to `../docs/`; here they become links between pages.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = "notebooks"


def fenced(text: str, language: str) -> str:
    """A block of code or of printed output."""
    return f"```{language}\n{text.rstrip()}\n```"


def to_markdown(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = re.sub(r"(\]\(\w+)\.ipynb(?=[)#])", r"\1.md", source)
            parts.append(source.replace("](../docs/", "](../"))
            continue
        parts.append(fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            suffix = next((each for each in ("png", "gif") if f"image/{each}" in data), None)
            if suffix is not None:
                name = f"{stem}_{len(pictures) + 1}.{suffix}"
                pictures[name] = base64.b64decode("".join(data[f"image/{suffix}"]))
                parts.append(f"![Output of the code above]({name})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(fenced(text, "text"))
    parts.append(
        f"---\nThis page is the notebook `{FOLDER}/{stem}.ipynb` of the repository, "
        "with its stored outputs."
    )
    return "\n\n".join(parts) + "\n", pictures


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page and its pictures for each notebook."""
    folder = Path(config.config_file_path).parent / FOLDER
    for path in sorted(folder.glob("*.ipynb")):
        page, pictures = to_markdown(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"{FOLDER}/{name}", content=picture))
    return files
