"""The documentation as data: code blocks, commands, links and names of its pages.

A block whose fence has ``title="needs ..."`` cannot be run without what it names; any other title is the name of the
file that the block is.
"""

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]

_FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code; ``line`` is that of its fence."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def needs(self) -> str:
        """What it cannot be run without; empty: nothing."""
        return self.title if self.title.startswith(("needs", "fails")) else ""

    @property
    def file(self) -> str:
        """The name of the file that it is, or an empty string."""
        return "" if self.needs else self.title

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str = "") -> list[Block]:
    """The blocks of ``page``, or those in ``language``."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        kind, title, body = match.groups()
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, kind, title or "", body))
    return [block for block in found if language in ("", block.language)]


def project() -> dict[str, Any]:
    """``[project]`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def commands(block: Block) -> Iterator[list[str]]:
    """The command lines of a block of shell code, without comments and ``VARIABLE=value`` in front."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def prose(page: Path) -> str:
    """The text of ``page`` without its blocks of code."""
    return _FENCE.sub("", page.read_text("utf-8"))


def code(page: Path) -> list[str]:
    """Everything in ``page`` that is set as code: inline code, and lines of blocks."""
    inline = re.findall(r"`([^`\n]+)`", prose(page))
    return inline + [line for block in blocks(page) for line in block.text.splitlines()]


def links(page: Path) -> list[str]:
    """The targets of ``page``'s links to other pages and files, and to its own headings."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The ids of ``page``'s headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.replace("`", "")).strip().lower() for title in titles)
    return {re.sub(r"\s+", "-", title) for title in plain}
