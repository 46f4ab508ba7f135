"""Makes text from models' names, captions and files literal in Markdown."""

import re

# Punctuation with a meaning inside a line (an underscore between letters has none), and markers of headings and lists.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]")


def markdown(text: str) -> str:
    """``text`` on one line, escaped so that it renders literally."""
    return _SPECIAL.sub(lambda match: "\\" + match[0], " ".join(text.split()))
