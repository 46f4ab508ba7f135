"""What the pages that we write hold: HTML for its scripts, Markdown in its tables."""

import json
import re
from pathlib import Path
from typing import Any


def embedded(page: Path, name: str) -> Any:
    """The data in the script element ``name`` of a page."""
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])


def table(page: Path) -> dict[str, list[str]]:
    """First cell -> the others, of the rows of all tables of a Markdown page."""
    rows = [line.strip("| ").split(" | ") for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows}
