"""Formulas of the site as MathML, which browsers draw without scripts, fonts or a network.

An extension of Python-Markdown, for what ``pymdownx.arithmatex`` has found. A formula that cannot be converted ends the
build. `make docs` puts this folder on the path.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor

_FOUND = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


class _Formulas(Postprocessor):
    def run(self, text: str) -> str:
        return _FOUND.sub(_mathml, text)


def _mathml(found: re.Match[str]) -> str:
    tag, tex = found.groups()
    display = "block" if tag == "div" else "inline"
    return f'<{tag} class="formula">{convert(html.unescape(tex).strip(), display=display)}</{tag}>'


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.postprocessors.register(_Formulas(md), "formulas", 0)  # after all others: arithmatex hides its formulas


def makeExtension(**options: Any) -> Extension:
    """What Python-Markdown calls."""
    return _Extension(**options)
