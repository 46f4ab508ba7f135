"""HTML pages that hold their data, and so need no server."""

import json


def script_json(data: object) -> str:
    """JSON that stays data inside a script element, whatever its strings are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
