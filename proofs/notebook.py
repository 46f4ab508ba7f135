"""Makes a notebook of a page of Markdown: blocks of Python and of shell code become cells, the text between them too.

python proofs/notebook.py docs/tutorial.md      # writes docs/tutorial.ipynb
"""

import argparse
import json
import re
from pathlib import Path

_BLOCK = re.compile(r"^```(bash|python)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells(text: str) -> list[dict]:
    """The cells, without outputs."""
    found: list[dict] = []

    def add(kind: str, source: str, **fields: object) -> None:
        if source.strip():
            cell = {"cell_type": kind, "id": f"cell-{len(found)}", "metadata": {}, **fields}
            found.append(cell | {"source": source.strip().splitlines(keepends=True)})

    end = 0
    for block in _BLOCK.finditer(text):
        add("markdown", text[end : block.start()])
        magic = "%%bash\n" if block[1] == "bash" else ""
        add("code", magic + block[2], execution_count=None, outputs=[])
        end = block.end()
    add("markdown", text[end:])
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    notebook = {
        "cells": cells(page.read_text("utf-8")),
        "metadata": {"kernelspec": _KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    page.with_suffix(".ipynb").write_text(json.dumps(notebook, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
