"""The pages in a browser: on a desk and on a phone, in light and dark rooms, with keys, and without network."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from etils import epath

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.evaluators.examples import Example
from naturel_jax.report import gallery, report
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.pairs import Paired
from naturel_jax.report.tables import BLIND, MEASURED, Cell, ModelRow
from tests.helpers import benchmark_files as files
from tests.helpers.browser import Page, browser
from tfds_naturel.audit import review
from tfds_naturel.captions import bank, decisions, grammar
from tfds_naturel.common.pages import data_uri
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.annotations import Box

pytestmark = pytest.mark.slow

DESK, PHONE = (1440, 900), (390, 844)
MALICIOUS = "</script><script>document.title='hacked'</script>"
MALICIOUS += '<img src=x onerror="document.title=\'hacked\'">\u2028 & "quoted" {{style}}'


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


def check(page: Page, address: str, title: str) -> None:
    """On a desk and a phone, light and dark: fits the window, and axe-core finds nothing; loads nothing but files."""
    page.requests.clear()
    for size in (DESK, PHONE):
        for dark in (False, True):
            page.resize(*size, dark=dark)
            page.open(address)
            assert page.fits(), (size, dark)
            assert page.violations() == [], (size, dark)
    assert page.run("document.title") == title
    assert {request.split(":")[0] for request in page.requests} <= {"file", "data", "about"}
    page.resize(*DESK)
    page.open(address)


# ---- Report ----------------------------------------------------------------------------------------------------------


def test_report(page, tmp_path):
    relations = {f"vg_relation/relation/r{n}": Cell(n / 30, (n / 40, n / 25), n + 1) for n in range(25)}
    sugarcrepe = [f"sugarcrepe/{name}" for name in ("replace_obj", "replace_att", "swap_obj", "swap_att", "add_obj")]
    cells = dict.fromkeys(("vg_relation/macro", "naturel/simple", *sugarcrepe), Cell(0.5, (0.45, 0.55), 9, True, True))
    rows = [ModelRow(name, MEASURED, cells | relations) for name in ("CLIP", MALICIOUS)]
    rows.append(ModelRow("longer caption", BLIND, dict.fromkeys(cells, Cell(0.6))))
    history = {name: [[(0, {"naturel/simple": 0.5}), (9, {"naturel/simple": 0.9})]] for name in ("CLIP", MALICIOUS)}
    section = Section(MALICIOUS, ("", "score"), [[MALICIOUS, "+0.1"]], [MALICIOUS], MALICIOUS)
    words = [Section(f"Words {n}", ("", *"abcdef"), [["Code", *["f" * 40] * 6]], words=True) for n in range(2)]
    images = [data_uri(form, files.png(0, size)) for form, size in (("jpeg", (128, 85)), ("png", (64, 64)))]
    shown = [Example("b", str(n), n % 2 == 0, tuple(images), (MALICIOUS, "x" * 500), (0.5,) * 4, 1) for n in range(30)]
    losses = {name: [[(n, 5 - n / 100) for n in range(300)]] for name in ("CLIP", MALICIOUS)}
    further = {"title": MALICIOUS, "losses": losses, "examples": {MALICIOUS: shown}, "made": words}
    report.save(epath.Path(tmp_path), Report(rows, history, [MALICIOUS], sections=[section], **further))
    assert (tmp_path / "report.html").stat().st_size < 1.5e6
    address = (tmp_path / "report.html").as_uri()
    check(page, address, " ".join(MALICIOUS.split()))
    assert page.run("document.querySelectorAll('script').length") == 0
    assert page.run("document.querySelectorAll('strong').length") == 14
    page.resize(*PHONE, dark=True)
    page.open(address)
    widths = page.run("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert widths == [widths[0]] * 3 and widths[0] > 300, "plots fill the width of a phone"
    ink = "getComputedStyle(document.querySelector('svg text')).fill === getComputedStyle(document.body).color"
    assert page.run(ink), "in the colour of the page"
    page.run("document.querySelector('.cards').scrollIntoView()")
    page.until("[...document.images].slice(0, 2).every(image => image.complete)")
    seen = page.run("[...document.images].map(i => [i.alt.length > 10, i.height]).slice(0, 2)")
    assert seen == [[True, 128]] * 2 and page.run("document.images.length") == 48, "24 items"


# ---- Gallery ---------------------------------------------------------------------------------------------------------


NOUNS = (("cow", "grass"), ("grass", "cow"))


def spatial_pairs(number: int, images: int = 40) -> list[Paired]:
    """Items like VG-Relation's, over some images; the first has a malicious caption, the image of the last is gone."""
    relations, pairs = ("to the left of", "to the right of", "on", "under"), []
    for n in range(number):
        relation, nouns = relations[n // images % 4], NOUNS[n % 7 == 0]
        captions = tuple(f"the {a} is {relation} the {b} number {n}" for a, b in (nouns, nouns[::-1]))
        box = (4 + n // images % 3, 4, 40, 30) if n % 3 else None
        a, b = n % 5 == 0, n % 2 == 0
        cosines = (0.3, 0.2 if a else 0.31), (0.9 if n == 24_998 else 0.25, 0.1 if b else 0.4)
        pairs.append(Paired(str(n), (f"p{n % images}",), (box,), captions, a, b, *cosines, relation))
    pairs[0] = dataclasses.replace(pairs[0], captions=(MALICIOUS, "b"))
    pairs[-1] = dataclasses.replace(pairs[-1], images=("gone",), captions=("uniquely worded", "b"))
    return pairs


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> dict[str, str]:
    """Addresses: of 25,000 items of 40 images, of 30 items of 6, and of pairs of small images."""
    folder, names = tmp_path_factory.mktemp("galleries"), ("CLIP & A", "<b>NegCLIP", "vg_relation")
    images = {f"p{n}": Image(f"p{n}", lambda n=n: files.png(n, (200, 150))) for n in range(40)}
    gallery.write(folder / "large.html", *names, spatial_pairs(25_000), images)
    gallery.write(folder / "medium.html", *names, spatial_pairs(30, 6), images)
    two = {"boxes": (None, None), "cosines_a": (0.1,) * 4, "cosines_b": (0.2,) * 4, "captions": ("a cat", "a dog")}
    pairs = [dataclasses.replace(p, images=(f"{p.id}a", f"{p.id}b"), **two) for p in spatial_pairs(6)[1:5]]
    images = {f"{n}{k}": Image(k, lambda n=n: files.png(n, (64, 64))) for n in range(1, 5) for k in "ab"}
    gallery.write(folder / "pixels.html", "A", "B", "winoground", pairs, images)
    return {path.stem: path.as_uri() for path in folder.glob("*.html")}


SHOWN = "[document.getElementById('shown').textContent, document.querySelectorAll('article').length]"
FOCUSED = "document.activeElement.closest('article')?.dataset.id"
CHOOSE = """(([id, start], select = document.getElementById(id)) => {
  select.value = [...select.options].find(option => option.text.startsWith(start)).value;
  select.dispatchEvent(new Event("change"));
})(%s)"""


def items(number: int) -> str:
    return f"{number:,} of 25,000 items"


def test_gallery_has_one_card_an_image(page, galleries):
    check(page, galleries["medium"], "CLIP & A / <b>NegCLIP on vg_relation")
    assert page.run(SHOWN) == ["30 of 30 items", 7]
    assert page.run("document.querySelector('tbody td').textContent") == MALICIOUS
    assert page.run("document.querySelectorAll('article:first-child tbody').length") == 5
    alts = page.run("[...document.images].map(image => image.alt)")
    assert len(alts) == 6 and alts[1] == "Image of item 1: the cow is to the left of the grass number 1"
    boxes = "document.querySelectorAll('article')[1].querySelectorAll('.frame i').length"
    assert page.run(boxes) == 3, "of five items, one has no box and two have the same"
    missing = "[...document.querySelectorAll('.missing')].map(element => element.textContent)"
    assert page.run(missing) == ["Image of item 29 cannot be read"]


def test_gallery_filters_search_order_and_links(page, galleries):
    page.resize(*DESK)
    page.open(galleries["large"])
    page.click("[data-verdict=a]")
    only_a = [n for n in range(25_000) if n % 5 == 0 and n % 2]
    assert page.run(SHOWN)[0] == items(len(only_a))
    rows = "document.querySelectorAll('article:first-child tbody').length"
    assert page.run(rows) == 12 and "613 more items" in page.run("document.querySelector('.rest').textContent")
    page.click(".rest")
    assert page.run(rows) == 625, "all items of the image"
    page.run(CHOOSE % json.dumps(["group", "to the left of"]))
    left = [n for n in only_a if n // 40 % 4 == 0]
    assert page.run(SHOWN)[0] == items(len(left))
    link = page.run("location.href")
    assert link.endswith("#right=a&group=to+the+left+of")
    page.open(galleries["large"])
    assert page.run(SHOWN)[0] == items(25_000)
    page.open(link)
    assert page.run(SHOWN)[0] == items(len(left))
    for fragment, number in {"search=NUMBER+24998+": 1, "search=nothing+at+all": 0, "order=b": 25_000}.items():
        page.run(f"location.hash = '{fragment}'")
        page.until(f"{SHOWN}[0] === '{items(number)}'")
        assert page.run("document.getElementById('none').hidden") == (number > 0)
    assert page.run("document.querySelector('article').dataset.id") == "24998"


def test_gallery_is_used_with_keys(page, galleries):
    page.resize(*DESK)
    page.open(galleries["medium"])
    page.press("3")
    assert page.run(SHOWN)[0] == f"{sum(n % 5 > 0 and n % 2 == 0 for n in range(30))} of 30 items"
    page.press("1")
    for key in "jjk":
        page.press(key)
    assert page.run(FOCUSED) == "0"
    page.press("j")
    page.press("Enter")
    zoomed = "[document.getElementById('zoom').open, document.getElementById('zoomtext').textContent.slice(0, 51)]"
    assert page.run(zoomed) == [True, "the cow is to the left of the grass number 1 / the "]
    assert page.violations() == []
    page.press("ArrowRight")
    assert page.run(zoomed) == [True, "the cow is to the left of the grass number 2 / the "]
    page.press("Escape")
    page.until(f"{FOCUSED} === '2'")
    assert page.run(zoomed)[0] is False
    page.press("/")
    for letter in "number 28":
        page.press(letter)
    assert page.run(SHOWN) == ["1 of 30 items", 1] and page.run("location.hash") == "#search=number+28"


def test_gallery_on_a_phone(page, galleries):
    page.resize(*PHONE)
    page.open(galleries["medium"])
    assert page.run("document.querySelector('header').getBoundingClientRect().height") < 120
    assert page.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    page.click("#toggle")
    assert page.run("document.getElementById('toggle').getAttribute('aria-expanded')") == "true"
    assert page.violations() == [] and page.fits()


def test_pixel_art_is_enlarged_by_whole_factors_without_smoothing(page, galleries):
    check(page, galleries["pixels"], "A / B on winoground")
    style = "(style => [style.imageRendering, style.width])(getComputedStyle(document.querySelector('%s')))"
    assert page.run(style % ".frame img") == ["pixelated", "128px"], "two images of 64 pixels in a card"
    assert page.run("[...document.querySelectorAll('article:first-child img')].map(image => image.alt)") == [
        "Image 1 of item 1: a cat",
        "Image 2 of item 1: a dog",
    ]
    page.click(".frame")
    assert page.run(style % "#zoom img") == ["pixelated", "576px"], "9 times: the height is 0.65 of 900 pixels"


# ---- Review ----------------------------------------------------------------------------------------------------------

CAT = Triplet("Cat", "on", "Desk")


@pytest.fixture(scope="module")
def small() -> bank.Bank:
    triplets = [CAT, Triplet("Man", "holds", "Mug"), Triplet("Table", "is", "Wooden"), Triplet("Dog", "under", "Chair")]
    return {triplet: grammar.write(triplet, np.random.default_rng(n)) for n, triplet in enumerate(triplets)}


@pytest.fixture(scope="module")
def review_page(small, tmp_path_factory) -> str:
    photo = data_uri("png", files.png(0, (400, 300)))
    shown = {CAT: [review.Shown("0", photo, Box(0.1, 0.5, 0.2, 0.6), Box(0.3, 0.9, 0.4, 1))] * 2}
    captions = list(small[CAT])
    captions[6] = dataclasses.replace(captions[6], text=MALICIOUS)
    path = tmp_path_factory.mktemp("review") / "review.html"
    path.write_text(review.page(small | {CAT: tuple(captions)}, shown), "utf-8")
    return path.as_uri()


TEXTS = "[...document.querySelectorAll('.text')].map(element => element.textContent)"
PRESSED = (
    "[...document.querySelectorAll('.buttons [aria-pressed]')].map(e => e.getAttribute('aria-pressed') === 'true')"
)
COUNT = "document.getElementById('count').textContent"
MESSAGE = "document.getElementById('message').textContent"


def fresh(page: Page, address: str, size: tuple[int, int] = DESK) -> None:
    """Opens the page as someone who has judged nothing."""
    page.resize(*size)
    page.open(address)
    page.run("localStorage.clear()")
    page.open(address)


def test_review_page_shows_pair_photos_and_guidelines(page, small, review_page):
    check(page, review_page, "NatuRel captions: review")
    assert page.run(TEXTS) == [caption.text for caption in small[CAT][:2]]
    images = page.run("[...document.querySelectorAll('figure img')].map(image => [image.alt, image.naturalWidth])")
    assert images == [["Photo of Cat on Desk", 400]] * 2
    assert page.run("[...document.querySelectorAll('.box')].map(box => box.textContent)") == ["Cat", "Desk"] * 2
    page.click("#guidelines summary")
    assert page.run("document.querySelectorAll('#guidelines li').length") >= 4 and page.violations() == []
    for _ in range(3):
        page.click("#after")
    assert page.run(TEXTS)[0] == MALICIOUS and page.run("document.title") == "NatuRel captions: review"


def test_review_by_touch(page, small, review_page, tmp_path):
    """Both captions are judged on a phone; the exported file is what the builder and the audit read."""
    fresh(page, review_page, PHONE)
    page.click(".caption:nth-child(1) .accept")
    assert page.run(PRESSED) == [True, False, False, False]
    page.click(".caption:nth-child(2) .reject")
    assert page.run(PRESSED) == [True, False, False, True] and page.violations() == [] and page.fits()
    for letter in 'says "on", twice':
        page.press(letter)
    page.press("Enter")
    assert page.run(TEXTS)[0] == small[CAT][2].text
    assert page.run(COUNT) == "2 of 32 captions judged; pair 2 of 16"
    page.click("#save")
    assert "Enter your name" in page.run(MESSAGE) and page.run("document.activeElement.id") == "name"
    for letter in "Ada":
        page.press(letter)
    written = page.run("csv()")
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [(row["decision"], row["reason"], row["annotator"]) for row in rows] == [
        ("accept", "", "Ada"),
        ("reject", 'says "on", twice', "Ada"),
    ]
    (tmp_path / "decisions.csv").write_text(written, encoding="utf-8")
    assert decisions.rejected(tmp_path / "decisions.csv") == {(CAT, small[CAT][1].text)}


def test_review_with_keys_and_again(page, review_page):
    fresh(page, review_page)
    for key in ("a", "a", "r"):
        page.press(key)
    assert page.run("document.activeElement.className") == "reason"
    page.press("Enter")
    page.press("a")
    assert page.run(COUNT) == "4 of 32 captions judged; pair 3 of 16"
    page.press("ArrowLeft")
    page.press("u")
    assert page.run(COUNT) == "3 of 32 captions judged; pair 2 of 16"
    page.press("ArrowDown")
    page.press("r")
    page.press("Escape")
    assert page.run(COUNT) == "3 of 32 captions judged; pair 2 of 16", "the second caption was accepted, now rejected"
    page.open(review_page)
    assert page.run(COUNT) == "3 of 32 captions judged; pair 1 of 16", "kept in this browser"
    written = page.run("csv()")
    page.run("localStorage.clear()")
    page.open(review_page)
    page.run(f"restore({json.dumps(written)})")
    assert page.run("csv()") == written
    page.run("at('state').value = 'reject'; filter()")
    assert page.run("pairs.length") == 1
    page.run("at('state').value = ''; at('relation').value = 'is'; filter()")
    assert page.run("pairs.length") == 4
    page.run("restore('a,b\\n')")
    assert "not a decisions file" in page.run(MESSAGE)
