"""Formulas of the site as MathML, which browsers draw without scripts, fonts or a network.

An extension of Python-Markdown, for what ``pymdownx.arithmatex`` has found. A formula that latex2mathml refuses, or of
which it leaves a command as it is, ends the build. `make docs` puts this folder on the path.
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
    mathml = convert(html.unescape(tex).strip(), display="block" if tag == "div" else "inline")
    if unknown := re.search(r"\\\w*", mathml):
        raise ValueError(f"formula {tex!r}: latex2mathml does not know {unknown[0]}; write it in other commands")
    return f'<{tag} class="formula">{mathml}</{tag}>'


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.postprocessors.register(_Formulas(md), "formulas", 0)  # after all others: arithmatex hides its formulas


def makeExtension(**options: Any) -> Extension:
    """What Python-Markdown calls."""
    return _Extension(**options)
