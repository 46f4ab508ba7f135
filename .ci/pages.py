"""Writes the pages that are derived from others: the tutorial's notebook, and the table of config fields.

python .ci/pages.py      # make pages
"""

import dataclasses
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

ROOT = Path(__file__).parents[1]

# ---- The notebook ----------------------------------------------------------------------------------------------------

_BLOCK = re.compile(r"^```(bash|python)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a notebook has as the outputs of its cells.
_SHOWN = re.compile(r"^```text\n.*?^```\n|^!\[[^\]]*\]\([^)]*\)\n", re.MULTILINE | re.DOTALL)
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(page: str, earlier: str = "") -> str:
    """The page as a notebook: its blocks of Python and of shell code are the cells, and the text between them. A cell
    that is also in the ``earlier`` notebook keeps its outputs; `make pictures` executes them."""
    cells: list[dict[str, Any]] = []
    known = {"".join(cell["source"]): cell for cell in json.loads(earlier)["cells"]} if earlier else {}

    def add(kind: str, source: str, **fields: object) -> None:
        if source.strip():
            cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, **fields}
            cells.append(cell | {"source": source.strip().splitlines(keepends=True)})

    def add_text(text: str) -> None:
        add("markdown", re.sub(r"\n{3,}", "\n\n", _SHOWN.sub("", text)))

    end = 0
    for block in _BLOCK.finditer(page):
        add_text(page[end : block.start()])
        source = ("%%bash\n" if block[1] == "bash" else "") + block[2].strip()
        same = known.get(source, {})
        add("code", source, execution_count=same.get("execution_count"), outputs=same.get("outputs", []))
        end = block.end()
    add_text(page[end:])
    fields = {"cells": cells, "metadata": {"kernelspec": _KERNEL}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(fields, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


# ---- The config ------------------------------------------------------------------------------------------------------

_HEAD = """# Config fields

A config file returns `naturel_jax.config.base()`, an `ml_collections.ConfigDict`, with some of these fields changed;
`--config.optim.lr=3e-6` changes one from the command line. Values that are not allowed are refused before anything
happens. A run may be continued with another value of a field with a star; of any other, it would be another run.

A *duration* is `'5 epochs'`, `'500 steps'`, `'1e6 examples'` or, but for `config.duration` itself, `'5%'` of the run.
"""
_TABLE = "\n| field | default | meaning | allowed |\n|---|---|---|---|\n"
# Fields whose allowed values have a page of their own.
_ELSEWHERE = {
    "preset": "a name in [Models and sizes](../models.md)",
    "benchmarks": "names in [Benchmarks](../benchmarks.md), or [your own](../evaluate.md#your-own-benchmark)",
}


def config_page() -> str:
    """Every field of the config with its default, meaning and allowed values."""
    from naturel_jax import config
    from naturel_jax.losses.terms import TERMS

    top, sections = _rows(config.Config, "config")
    text = f"{_HEAD}{_TABLE}{top}"
    for name, (kind, may_change) in sections.items():
        text += f"\n## config.{name}\n{_TABLE}{_rows(kind, f'config.{name}', may_change)[0]}"
    part = "A part is made by `c.part(dataset, recipe, ...)`; `fields`: see [your own data](../data.md#fields).\n"
    text += f"\n## config.data.mixture.NAME\n\n{part}{_TABLE}{_rows(config.Part, 'config.data.mixture.NAME')[0]}"
    for name, term in TERMS.items():
        path = f"config.objective.terms.{name}"
        text += f"\n## {path}\n\nSee [Terms of the objective](../methods.md).\n{_TABLE}{_rows(term, path)[0]}"
    return text


def _rows(kind: type, path: str, may_change: bool = False) -> tuple[str, dict[str, tuple[type, bool]]]:
    """The rows of a section, and the sections in it."""
    hints, rows, sections = get_type_hints(kind), "", {}
    for field in dataclasses.fields(kind):
        star = may_change or field.metadata["may_change"]
        if dataclasses.is_dataclass(hints[field.name]):
            sections[field.name] = (hints[field.name], star)
        else:
            rows += f"| `{path}.{field.name}`{' *' * star} | {' | '.join(_cells(field))} |\n"
    return rows, sections


def _cells(field: dataclasses.Field) -> Iterator[str]:
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    yield f"`{default!r}`"
    yield html.escape(field.metadata["meaning"], quote=False)
    allowed = field.metadata["allowed"]
    yield _ELSEWHERE.get(field.name) or (html.escape(_in_words(allowed.expected()), quote=False) if allowed else "")


def _in_words(expected: str) -> str:
    if expected.startswith("a number and a unit"):
        return "a duration"
    return re.sub(r"'([^']*)'", lambda name: f"`{name[1]}`" if name[1] else "empty", expected)


def main() -> None:
    """Writes both."""
    tutorial, executed = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
    executed.write_text(notebook(tutorial.read_text("utf-8"), executed.read_text("utf-8")), "utf-8")
    (ROOT / "docs" / "reference" / "config.md").write_text(config_page(), "utf-8")


if __name__ == "__main__":
    main()
