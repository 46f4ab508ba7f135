"""HTML pages with embedded data, usable without a server or network."""

import base64
import json
import re
from importlib.resources.abc import Traversable

# What all pages share: colours for light and dark rooms, at least 4.5:1 against their backgrounds; type and controls.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #566174; --line: #cfd6e2; --card: #fff; --page: #f5f7fa;
  --right: #067647; --wrong: #b42318; --a: #3559c7; --b: #934500; --focus: #3559c7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #a3adbd; --line: #384252; --card: #171c25;
  --page: #0f131a; --right: #47cd89; --wrong: #f97066; --a: #93b0ff; --b: #fdb022; --focus: #93b0ff; } }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
button, select, input { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 6px; padding: .35rem .7rem; max-width: 100%; }
button { cursor: pointer; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
[hidden] { display: none !important; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 .35rem; font-size: .85em; }
"""


def fill(template: Traversable, **parts: str) -> str:
    """The page ``template`` with every ``{{name}}`` replaced by the part of that name, in one pass: what stands in a
    part is never taken for a placeholder. ``{{style}}`` is ``STYLE``."""
    parts = {"style": STYLE} | parts
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template.read_text(encoding="utf-8"))


def script_json(data: object) -> str:
    """JSON that is safe inside a script element, whatever strings it contains."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(kind: str, data: bytes) -> str:
    """An image (``kind``: ``png``, ``jpeg``) as the address of itself, for pages without other files."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
