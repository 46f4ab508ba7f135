"""The table of docs/models.md is that of the presets."""

import re
import runpy

import pytest

from naturel_jax.models.presets import PRESETS
from tests.helpers.documents import ROOT

PAGE = (ROOT / "docs/models.md").read_text()
ROWS = {row.split("`")[1]: row for row in re.findall(r"^\| `[^|]*\|[^|`]*\+.*\n", PAGE, re.MULTILINE)}
MODELS = runpy.run_path(str(ROOT / ".ci/models.py"))

# (preset, millions of parameters) in all, as published: OpenAI's model card and open_clip's docs/model_profile.csv.
PUBLISHED = {"clip-b32": 151.28, "clip-b16": 149.62, "clip-l14": 427.62, "laion-h14": 986.11, "siglip-b16-224": 203.16}


def test_every_preset_has_a_row():
    assert list(ROWS) == list(PRESETS)
    assert MODELS["HEAD"] in PAGE and MODELS["TAIL"] in PAGE, "run `make pages`"
    assert all(f"| `{name}` | `{source}` |" in PAGE for name in PRESETS if (source := MODELS["weights"](name)))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameters_are_the_published_ones(preset):
    cells = [cell.strip() for cell in ROWS[preset].split("|")]
    assert sum(map(float, cells[2].split(" + "))) == pytest.approx(PUBLISHED[preset], abs=0.11)  # two rounded numbers
    assert float(cells[6]) == pytest.approx(PUBLISHED[preset] * 1e6 * 16 / 2**30, abs=0.006)


@pytest.mark.slow
def test_rows_are_up_to_date():
    """A third of them, since each takes seconds."""
    for name in [*PRESETS][::3]:
        assert ROWS[name] == MODELS["row"](name, PRESETS[name]), "run `make pages`"
