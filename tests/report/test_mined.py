"""The gallery of mined images has the rows that were drawn, with their images and kinds, and runs nothing of theirs."""

import base64
import io
import re

import numpy as np
from etils import epath
from PIL import Image

from naturel_jax.report import mined

ROWS = [(f"i{n:03}", "Cat|on|<script>", [f"i{n + 1:03}", f"i{n + 2:03}"], ["swap", "nearest"]) for n in range(40)]


def _read(name: str) -> bytes:
    """An image whose red is its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (int(name[1:]), 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def test_page_shows_a_sample_of_the_rows_and_what_was_left_out(tmp_path):
    kept = []
    assert list(mined.sample(ROWS, 5, kept)) == ROWS
    assert len(kept) == 5 and len({image for image, *_ in kept}) == 5 and all(row in ROWS for row in kept)
    path = epath.Path(tmp_path / "out.parquet.html")
    mined.write(path, kept, _read, {"copy": 1234, "max_score": 0})
    page = path.read_text()
    images = re.findall(r'alt="(i\d+)" src="data:image/png;base64,([^"]+)"><small>(\w*)</small>', page)
    assert [(name, kind) for name, _, kind in images] == [
        shown
        for image, _, negatives, kinds in sorted(kept)
        for shown in [(image, ""), *zip(negatives, kinds, strict=True)]
    ]
    for name, data, _ in images:
        assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((3, 3)) == (int(name[1:]), 0, 0)
    assert "Candidates left out: copy 1,234." in page
    assert "Cat|on|&lt;script&gt;" in page and "<script>" not in page


def test_image_that_cannot_be_read_is_named(tmp_path):
    path = epath.Path(tmp_path / "page.html")
    mined.write(path, ROWS[:1], lambda name: b"" if name == "i001" else _read(name), {})
    page = path.read_text()
    assert "i001 is not a readable image <small>swap</small>" in page and page.count("<img") == 2


def test_each_row_is_as_likely_to_be_drawn():
    drawn = np.zeros(1000)
    kept = []
    list(mined.sample([(f"{n}", "", [], []) for n in range(1000)], 300, kept))
    drawn[[int(row[0]) for row in kept]] = 1
    quarters = drawn.reshape(4, 250).sum(axis=1)
    assert quarters.sum() == 300 and (abs(quarters - 75) < 4 * np.sqrt(75 * 0.7)).all()
    few = []
    list(mined.sample(ROWS, 99, few))
    assert few == ROWS
