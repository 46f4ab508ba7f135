"""Makes text from models' names, captions and files literal in the pages and tables that we write."""

import csv
import html as html_escape
import io
import re
from collections.abc import Iterable

# Punctuation that Markdown interprets in a line (not an underscore between letters), and markers of headings and lists.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]")
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # terminals and text direction
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # in LaTeX's default font, <, > and | are other characters
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{c: f"{{{c}}}" for c in "[]*"},  # at the start of a row, these would be arguments of the line break before it
}


def lines(text: str) -> str:
    """``text`` without characters that control a terminal or the direction of text, but for line breaks and tabs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", re.sub("[\r\v\f]", "\0", text))


def line(text: str) -> str:
    """``text`` on one line, without characters that control a terminal or the direction of text."""
    return " ".join(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).split())


def markdown(text: str) -> str:
    """``text`` on one line, escaped so that it renders literally."""
    return _SPECIAL.sub(lambda match: "\\" + match[0], line(text))


def html(text: str) -> str:
    """``text`` on one line, escaped for HTML."""
    return html_escape.escape(line(text))


def code(text: str) -> str:
    """``text`` on one line as a code span of Markdown."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " * (longest > 0)
    return f"{'`' * (longest + 1)}{space}{line(text)}{space}{'`' * (longest + 1)}"


def latex(text: str) -> str:
    """``text`` on one line, escaped so that LaTeX typesets it literally."""
    return "".join(_LATEX.get(character, character) for character in line(text))


def cell(text: str) -> str:
    """``text`` as a CSV cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file, no cell of which a spreadsheet takes for a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(cell, head))
    writer.writerows([cell(value) if isinstance(value, str) else value for value in row] for row in rows)
    return buffer.getvalue()
