"""Pages from templates; HTML with embedded data, usable without a server or network."""

import base64
import json
import re
from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path


def fill(template: Traversable, **parts: str) -> str:
    """The page ``template`` with every ``{{name}}`` replaced by the part of that name, in one pass: text in a part is
    never taken for a placeholder. ``{{style}}`` is ``style.css``, which all HTML pages share."""
    parts = {"style": Path(__file__).with_name("style.css").read_text("utf-8")} | parts
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template.read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *rows)]


def script_json(data: object) -> str:
    """JSON that is safe inside a script element, whatever strings it contains."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(kind: str, data: bytes) -> str:
    """An image (``kind``: ``png``, ``jpeg``) as a data URI, for pages without other files."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
