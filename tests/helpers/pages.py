"""What the HTML pages that we write hold for their scripts."""

import json
import re
from pathlib import Path
from typing import Any


def embedded(page: Path, name: str) -> Any:
    """The data in the script element ``name`` of a page."""
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])
