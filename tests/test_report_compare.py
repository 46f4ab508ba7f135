"""Comparisons and the gallery: expectations written by hand, and a real browser."""

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import benchmark_files as files
import PIL.Image
import pytest

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.report import compare, gallery
from naturel_jax.report.pairs import Paired, pair_up, pattern


def pair(n: int, a: bool, b: bool, group: str = "on", caption: str = "the cat is on the box") -> Paired:
    return Paired(
        str(n), ("p",), (None,), (caption, "no"), a, b, (0.3, 0.2), (0.3, 0.2), group, pattern(caption, group)
    )


def test_mcnemar_by_hand():
    pairs = [pair(n, n < 8, n < 2 or 10 <= n < 11) for n in range(16)]  # both 2, only A 6, only B 1, neither 7
    table = compare.count(pairs)
    assert (table.both, table.only_a, table.only_b, table.neither) == (2, 6, 1, 7)
    assert table.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert table.difference[0] == pytest.approx(3 / 16 - 8 / 16)
    half = 1.96 * math.sqrt(7 - 25 / 16) / 16  # Agresti 2013, equation 11.2
    assert table.difference[2] - table.difference[0] == pytest.approx(half)
    assert table.odds_ratio == pytest.approx(1 / 6) and table.g == pytest.approx(1 / 7 - 0.5)
    same = compare.count([pair(0, True, True)])
    assert (same.p, same.g) == (1, 0) and math.isnan(same.odds_ratio)


def test_groups_are_holm_corrected():
    pairs = [pair(n, True, False, "x") for n in range(7)] + [pair(n, True, False, "y") for n in range(5)]
    pairs += [pair(0, True, True, "z")]
    result = compare.count_by(pairs, lambda p: p.group)
    raw = {"x": 2 / 2**7, "y": 2 / 2**5, "z": 1}
    assert list(result) == ["x", "y", "z"]
    assert [p for _, p in result.values()] == pytest.approx([3 * raw["x"], 2 * raw["y"], 1])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the cow is to the left of the grass", "to the left of"),
        ("The pasture is to the right of the dog", "to the right of"),
        ("Atop the table, sits the cat.", "atop"),
        ("the man frobs the dog", "frobs"),
        ("no pattern here", "other"),
    ],
)
def test_patterns(caption, expected):
    assert pattern(caption, "frobs") == expected


def test_pair_up_joins_both_models_results():
    row = {
        "images": ["p"],
        "boxes": [[1, 2, 3, 4]],
        "captions": ["a", "b"],
        "cosines": [0.1, 0.2],
        "tags": {"relation": "on"},
    }
    rows_a = [row | {"id": i, "outcome/right": right} for i, right in (("0", 1.0), ("1", 0.0), ("2", None), ("3", 1.0))]
    rows_b = [row | {"id": i, "outcome/right": right} for i, right in (("1", 1.0), ("0", 1.0), ("2", 1.0))]
    result = pair_up(rows_a, rows_b, "right")
    assert [(p.id, p.a, p.b, p.group, p.boxes) for p in result] == [
        ("0", True, True, "on", ((1, 2, 3, 4),)),
        ("1", False, True, "on", ((1, 2, 3, 4),)),
    ]
    with pytest.raises(ValueError, match=r"'text' is not an outcome .* right"):
        pair_up(rows_a, rows_b, "text")


def test_comparison_lists_what_each_model_alone_gets_right():
    pairs = [
        pair(0, True, False, "left", "the cow is to the left of the grass"),
        pair(1, False, True, "right", "the pasture is to the right of the dog"),
    ]
    text = compare.markdown("NegCLIP", "NegCLIP-AP", "vg_relation", pairs)
    first, second = text.split("## Captions that NegCLIP-AP gets right")
    assert "- the cow is to the left of the grass" in first and "- the pasture is to the right of the dog" in second
    assert "| to the left of | 1 | 1.00 | 0.00 | 1 | 0 | -0.50 | 1 |" in text


def test_comparison_escapes_names_and_captions():
    pairs = [pair(0, True, False, "on|under", "<script>alert(1)</script>\n# [a](b)")]
    text = compare.markdown("A|*x*", "<b>", "vg_relation", pairs)
    assert "- \\<script\\>alert(1)\\</script\\> # \\[a\\](b)\n" in text
    assert "A\\|\\*x\\*" in text and "\\<b\\>" in text and "on\\|under" in text
    assert "A|*x*" not in text and "| <b>" not in text


MALICIOUS = "</script><script>document.title='hacked'</script>"
MALICIOUS += '<img src=x onerror="document.title=\'hacked\'">\u2028 & "quoted"'


def write_gallery(folder: Path, number: int) -> Path:
    """Writes a gallery of ``number`` items over 40 images; item 0 has a malicious caption and two images, the last item
    has no available image.
    """
    relations = ("to the left of", "to the right of", "on", "under")
    pairs = []
    for n in range(number):
        relation = relations[n % 4]
        captions = (f"the cow number {n} is {relation} the grass", f"the grass is {relation} the cow number {n}")
        box = (4, 4, 40, 30) if n % 3 else None
        a, b = n % 5 == 0, n % 2 == 0
        cosines = (0.3, 0.2 if a else 0.31), (0.9 if n == 24_998 else 0.25, 0.1 if b else 0.4)
        pairs.append(
            Paired(str(n), (f"p{n % 40}",), (box,), captions, a, b, *cosines, relation, pattern(captions[0], relation))
        )
    first = pairs[0]
    pairs[0] = Paired(
        "0", ("p0", "p1"), (None, None), (MALICIOUS, "b"), first.a, first.b, (0.1,) * 4, (0.2,) * 4, "on", "on"
    )
    pairs[-1] = Paired(
        "last", ("gone",), ((1, 1, 5, 5),), ("uniquely worded", "b"), False, False, (0.1, 0.2), (0.1, 0.2), "on", "on"
    )
    images = {f"p{n}": Image(f"p{n}", lambda n=n: files.png(n, (400, 300))) for n in range(40)}
    gallery.write(folder / "compare.html", "CLIP & A", "<b>NegCLIP", "vg_relation", pairs, images)
    return folder / "compare.html"


def test_gallery_is_one_file_with_thumbnails(tmp_path):
    page = write_gallery(tmp_path, 50).read_text()
    assert page.count("<script") == 2 and "<img" not in page and "\u2028" not in page and "http://" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["items"][0][3][0] == MALICIOUS
    assert sum(p is not None for p in data["thumbnails"]) == 40 and data["thumbnails"][-1] is None
    file, width, height = data["thumbnails"][0]
    assert (width, height) == (400, 300) and (tmp_path / file).is_file()
    with PIL.Image.open(tmp_path / file) as thumbnail:
        assert max(thumbnail.size) == 320


def browser() -> str:
    """The path of Chromium, which the slow tests need."""
    result = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    assert result, "the browser tests need Chromium: apt-get install chromium"
    return result


def open_page(page: Path, script: str, *flags: str) -> dict:
    """Opens ``page`` from its file, runs ``script`` (which fills ``result``) and returns ``result``."""
    probe = page.with_name("probe.html")
    ending = f"<script>{{const result = {{}}; {script}; const out = document.createElement('pre'); out.id = 'result';"
    ending += "out.textContent = JSON.stringify(result); document.body.append(out);}</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", ending), "utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", *flags]
    run = subprocess.run(
        [*command, "--virtual-time-budget=10000", "--dump-dom", probe.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', run.stdout.decode(), re.DOTALL)[1]))


@pytest.mark.slow
def test_gallery_in_a_browser(tmp_path):
    page = write_gallery(tmp_path, 25_000)
    result = open_page(
        page,
        """
        const shown = () => document.getElementById('shown').textContent;
        const cards = () => document.querySelectorAll('article').length;
        const set = (id, value, kind) => {
          const control = document.getElementById(id);
          control.value = value;
          control.dispatchEvent(new Event(kind));
        };
        result.ready = performance.now();
        result.start = [shown(), cards()];
        result.first = document.querySelector('td').textContent;
        result.title = document.title;
        result.images = document.querySelector('article').querySelectorAll('img').length;
        result.boxes = document.querySelectorAll('article i').length;
        document.querySelector('[data-verdict="1"]').click(); result.only_a = shown();
        document.querySelector('[data-verdict="all"]').click();
        const group = [...document.getElementById('group').options].find(o => o.text.startsWith('to the left of'));
        set('group', group.value, 'change'); result.left = shown();
        set('group', '', 'change'); set('search', 'COW number 24998 ', 'input'); result.search = [shown(), cards()];
        set('search', 'uniquely', 'input'); result.missing = [cards(), document.querySelectorAll('article img').length];
        set('search', 'no such words', 'input'); result.none = [cards(), document.getElementById('none').hidden];
        set('search', '', 'input'); set('order', 'b', 'change');
        result.order = document.querySelector('article').dataset.id;
        """,
    )
    print(f"25,000 items were ready after {result.pop('ready'):.0f} ms")
    assert result == {
        "start": ["25,000 of 25,000 items", 60],
        "first": MALICIOUS,
        "title": "CLIP & A / <b>NegCLIP on vg_relation",
        "images": 2,
        "boxes": 40,
        "only_a": "2,500 of 25,000 items",
        "left": "6,249 of 25,000 items",
        "search": ["1 of 25,000 items", 1],
        "missing": [1, 0],
        "none": [0, False],
        "order": "24998",
    }
