"""The table of docs/models.md is that of the presets."""

import re
import runpy

import pytest

from naturel_jax.models.presets import PRESETS
from tests.helpers.documents import ROOT

PAGE = (ROOT / "docs/models.md").read_text()
ROWS = {row.split("`")[1]: row for row in re.findall(r"^\| `[^|]*\|[^|`]*\+.*\n", PAGE, re.MULTILINE)}
MODELS = runpy.run_path(str(ROOT / ".ci/models.py"))


def test_every_preset_has_a_row():
    assert list(ROWS) == list(PRESETS)
    assert MODELS["HEAD"] in PAGE and MODELS["TAIL"] in PAGE, "run `make pages`"
    assert all(f"| `{name}` | `{source}` |" in PAGE for name in PRESETS if (source := MODELS["weights"](name)))


@pytest.mark.slow
def test_rows_are_up_to_date():
    """Some of them, since each takes seconds."""
    for name in [*PRESETS][::10]:
        assert ROWS[name] == MODELS["row"](name, PRESETS[name]), "run `make pages`"
