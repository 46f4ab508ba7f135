"""Self-contained HTML pages with embedded data, usable without a server."""

import json


def script_json(data: object) -> str:
    """JSON that is safe inside a script element, whatever strings it contains."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
