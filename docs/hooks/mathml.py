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

# latex2mathml stretches the bars of a norm, and sets `log p` without a space.
NORM = re.compile(r"<mo>(&#x02016;)</mo>")
FUNCTION = re.compile(r"(<mi>(?:log|exp|sin|tan)</mi>)(?!<mo[^>]*>&#x00028;)")


def mathml(latex: str, display: str) -> str:
    """A formula as MathML, `display` being `block` or `inline`."""
    formula = NORM.sub(r'<mo stretchy="false">\1</mo>', convert(latex, display=display))
    return FUNCTION.sub(r'<mrow>\1<mspace width="0.17em" /></mrow>', formula)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Convert the formulas of a page; an error names the formula."""

    def replace(match: re.Match[str]) -> str:
        tag, latex = match[1], html.unescape(match[2])
        try:
            formula = mathml(latex, "block" if tag == "div" else "inline")
        except Exception as error:
            error.add_note(f"in the formula {latex!r}")
            raise
        return f'<{tag} class="formula">{formula}</{tag}>'

    return FORMULA.sub(replace, content)
