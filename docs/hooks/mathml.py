"""MkDocs hook: formulas become MathML while the site is built.

Browsers draw MathML themselves, so that pages need no script and no network.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# As pymdownx.arithmatex leaves formulas with `generic: true`.
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', flags=re.DOTALL
)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Convert the formulas of a page; an error names the formula."""

    def mathml(match: re.Match[str]) -> str:
        tag, latex = match[1], html.unescape(match[2])
        try:
            formula = convert(latex, display="block" if tag == "div" else "inline")
        except Exception as error:
            error.add_note(f"in the formula {latex!r}")
            raise
        return f'<{tag} class="formula">{formula}</{tag}>'

    return FORMULA.sub(mathml, content)
