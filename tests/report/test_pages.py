"""The pages in a browser: on a desk and on a phone, in light and dark rooms, with keys, and without network."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import evaluate
from naturel_jax.benchmarks import order
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.evaluators import results
from naturel_jax.evaluators.examples import Example
from naturel_jax.report import gallery, overview, report
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.pairs import Judged
from naturel_jax.report.tables import BLIND, MEASURED, Cell, ModelRow
from tests.helpers import benchmark_files as files
from tests.helpers.browser import DESK, PHONE, Page, browser
from tests.helpers.model_files import save_hf
from tests.helpers.open_images_files import image_id, photo, row, write_release
from tfds_naturel import build
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import readers, review
from tfds_naturel.audit.attack import Pair
from tfds_naturel.captions import bank, decisions, grammar
from tfds_naturel.common.pages import data_uri
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.annotations import Box

pytestmark = pytest.mark.slow

MODELS = {"CLIP": "tiny-clip", "SigLIP": "tiny-siglip"}
MALICIOUS = "</script><script>document.title='hacked'</script>"
MALICIOUS += '<img src=x onerror="document.title=\'hacked\'">\u2028 & "quoted" {{style}}'


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


def check(page: Page, address: str, title: str) -> None:
    """On a desk and a phone, light and dark: fits the window, and axe-core finds nothing; loads nothing but files."""
    page.requests.clear()
    for where in page.everywhere(address):
        assert page.fits(), where
        assert page.violations() == [], where
    assert page.run("document.title") == title
    assert {request.split(":")[0] for request in page.requests} <= {"file", "data", "about"}
    page.resize(*DESK)
    page.open(address)


# ---- Report ----------------------------------------------------------------------------------------------------------


def test_report(page, tmp_path):
    further = ["cola/group", "vsr/accuracy", "mine/image_to_text@1", "zeroshot/dtd/top1"]
    relations = {f"vg_relation/relation/r{n}": Cell(n / 30, (n / 40, n / 25), n + 1) for n in range(25)}
    sugarcrepe = [f"sugarcrepe/{name}" for name in ("replace_obj", "replace_att", "swap_obj", "swap_att", "add_obj")]
    linked = Cell(0.5, (0.45, 0.55), 9, True, True, link="galleries/b.html#right=wrong%3ACLIP")
    cells = dict.fromkeys(("vg_relation/macro", "naturel/simple", *sugarcrepe, *further), linked)
    rows = [ModelRow(name, MEASURED, cells | relations) for name in ("CLIP", MALICIOUS)]
    rows.append(ModelRow("longer caption", BLIND, dict.fromkeys(cells, Cell(0.6))))
    history = {name: [[(0, {"naturel/simple": 0.5}), (9, {"naturel/simple": 0.9})]] for name in ("CLIP", MALICIOUS)}
    section = Section(MALICIOUS, ("", "score"), [[MALICIOUS, "+0.1"]], [MALICIOUS], MALICIOUS)
    words = [Section(f"Words {n}", ("", *"abcdef"), [["Code", *["f" * 40] * 6]], words=True) for n in range(2)]
    images = [data_uri(form, files.png(0, size)) for form, size in (("jpeg", (128, 85)), ("png", (64, 64)))]
    shown = [Example("b", str(n), n % 2 == 0, tuple(images), (MALICIOUS, "x" * 500), (0.5,) * 4, 1) for n in range(30)]
    losses = {name: [[(n, 5 - n / 100) for n in range(300)]] for name in ("CLIP", MALICIOUS)}
    others = {"title": MALICIOUS, "losses": losses, "examples": {MALICIOUS: shown}, "made": words}
    report.save(epath.Path(tmp_path), Report(rows, history, [MALICIOUS], sections=[section], **others))
    assert (tmp_path / "report.html").stat().st_size < 1.5e6
    address = (tmp_path / "report.html").as_uri()
    check(page, address, " ".join(MALICIOUS.split()))
    assert page.run("document.querySelectorAll('script').length") == 0
    assert page.run("document.querySelectorAll('strong').length") == 2 * (7 + 4 + 11), "two tables, further, families"
    titles = page.run("[...document.querySelectorAll('.beside')].map(e => e.previousElementSibling.textContent)")
    assert titles[:5] == [family.title for family in overview.COLUMN_FAMILIES]
    assert titles[5:] == ["Forgetting against gain", "By relation: vg_relation"]
    page.run("document.querySelector('details').open = true")
    assert page.violations() == [] and page.fits()
    page.resize(*PHONE, dark=True)
    page.open(address)
    widths = page.run("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert widths == [widths[0]] * 9 and widths[0] > 300, "plots fill the width of a phone"
    ink = "getComputedStyle(document.querySelector('svg text')).fill === getComputedStyle(document.body).color"
    assert page.run(ink), "in the colour of the page"
    page.run("document.querySelector('.cards').scrollIntoView()")
    page.until("[...document.images].slice(0, 2).every(image => image.complete)")
    seen = page.run("[...document.images].map(i => [i.alt.length > 10, i.height]).slice(0, 2)")
    assert seen == [[True, 128]] * 2 and page.run("document.images.length") == 48, "24 items"


def test_report_on_every_suite_has_all_columns_in_every_format(page, tmp_path, monkeypatch):
    """By the command, on files of each suite in its official format, but those of Crossmodal-3600's 36 languages."""
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(word, "NN") for word in text.split()] for text in texts])
    for make in dict.fromkeys(files.MAKERS.values()):
        make(tmp_path)
    names = [name for name in BENCHMARKS if name in files.MAKERS and "crossmodal3600" not in name]
    out = tmp_path / "out"
    models = [f"{name}={save_hf(tmp_path / name, preset)}" for name, preset in MODELS.items()]
    flags = [f"--benchmarks_dir={tmp_path}", f"--out={out}", "--baseline=CLIP"]
    evaluate.main([*flags, "--models", *models, "--benchmarks", *names])
    check(page, (out / "report.html").as_uri(), f"Evaluation of CLIP and SigLIP on {len(names)} benchmarks")
    families = overview.columns([metric for result in results.load(out) for metric in result.metrics])
    columns = [name for family in families.values() for name in family]
    assert len(names) > 40 and len(columns) > 80 and len(families) == 4
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    for size in (DESK, PHONE):
        page.resize(*size)
        assert page.fits(), size
    heads = page.run("[...document.querySelectorAll('.beside th')].map(e => e.textContent)")
    text, tex = ((out / f"report.{suffix}").read_text() for suffix in ("md", "tex"))
    assert not re.search(r"\bnan\b", text + tex)
    for name in columns:
        assert name in heads and f"| {name} |" in text and name.replace("_", r"\_") in tex, name
    scores = {(result.model, metric) for result in results.load(out) for metric in result.scores}
    rows = csv.DictReader((out / "scores.csv").read_text().splitlines())
    assert {(row["model"], row["metric"]) for row in rows if row["kind"] == MEASURED} == scores
    found = [json.loads(path.read_text())["metrics"] for path in (out / "clip_benchmark").iterdir()]
    assert sum(map(len, found)) == len(scores)


# ---- Gallery ---------------------------------------------------------------------------------------------------------


NOUNS = (("cow", "grass"), ("grass", "cow"))


def spatial_pairs(number: int, images: int = 40) -> list[Judged]:
    """Items like VG-Relation's, over some images; the first has a malicious caption, the image of the last is gone."""
    relations, pairs = ("to the left of", "to the right of", "on", "under"), []
    for n in range(number):
        relation, nouns = relations[n // images % 4], NOUNS[n % 7 == 0]
        captions = tuple(f"the {a} is {relation} the {b} number {n}" for a, b in (nouns, nouns[::-1]))
        box = (4 + n // images % 3, 4, 40, 30) if n % 3 else None
        a, b = n % 5 == 0, n % 2 == 0
        cosines = (0.3, 0.2 if a else 0.31), (0.9 if n == 24_998 else 0.25, 0.1 if b else 0.4)
        pairs.append(Judged(str(n), (f"p{n % images}",), (box,), captions, ((a, b),), cosines, relation))
    pairs[0] = dataclasses.replace(pairs[0], captions=(MALICIOUS, "b"))
    pairs[-1] = dataclasses.replace(pairs[-1], images=("gone",), captions=("uniquely worded", "b"))
    return pairs


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> dict[str, str]:
    """Addresses: of 25,000 items of 40 images, of 30 of 6, of 25,000 of one each, and of pairs of small images."""
    folder, names = tmp_path_factory.mktemp("galleries"), (("CLIP & A", "<b>NegCLIP"), "vg_relation")
    images = {f"p{n}": Image(f"p{n}", lambda n=n: files.png(n, (200, 150))) for n in range(40)}
    gallery.write(folder / "large.html", *names, spatial_pairs(25_000), images)
    gallery.write(folder / "medium.html", *names, spatial_pairs(30, 6), images)
    gallery.write(folder / "many.html", *names, spatial_pairs(25_000, 25_000), {})
    two = {"boxes": (None, None), "cosines": ((0.1,) * 4, (0.2,) * 4), "captions": ("a cat", "a dog")}
    pairs = [dataclasses.replace(p, images=(f"{p.id}a", f"{p.id}b"), **two) for p in spatial_pairs(6)[1:5]]
    images = {f"{n}{k}": Image(k, lambda n=n: files.png(n, (64, 64))) for n in range(1, 5) for k in "ab"}
    gallery.write(folder / "pixels.html", "AB", "winoground", pairs, images)
    models = ("CLIP", "NegCLIP", MALICIOUS)
    right = [((n % 2 == 0, n % 3 == 0, True), () if n == 4 else (False, n == 1, True)) for n in range(1, 5)]
    pairs = [dataclasses.replace(p, right=of, cosines=((0.123,) * 4,) * 3) for p, of in zip(pairs, right, strict=True)]
    gallery.write(folder / "three.html", models, "winoground", pairs, images, ["text", "image"])
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


def test_gallery_of_many_images_draws_the_first_and_more_as_they_are_reached(page, galleries):
    page.resize(*DESK)
    page.open(galleries["many"])
    assert page.run(SHOWN) == [items(25_000), 60]
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.until(f"{SHOWN}[1] === 120")


def test_gallery_of_several_models_opens_on_what_one_gets_wrong(page, galleries):
    check(page, galleries["three"], f"CLIP / NegCLIP / {MALICIOUS} on winoground")
    for fragment, shown in {
        "right=wrong%3ACLIP": ["2 of 4 items", "1,3"],
        "right=right%3ANegCLIP&group=to+the+left+of": ["1 of 4 items", "3"],
        "outcome=image&right=wrong%3ANegCLIP": ["2 of 3 items", "2,3"],
    }.items():
        page.open("about:blank")
        page.open(f"{galleries['three']}#{fragment}")
        ids = page.run("[...document.querySelectorAll('article')].map(card => card.dataset.id).join()")
        assert [page.run(SHOWN)[0], ids] == shown, fragment
    page.click('[data-verdict="right:NegCLIP"]')
    assert page.run(SHOWN)[0] == "1 of 3 items" and page.run("location.hash").startswith(
        "#outcome=image&right=right%3A"
    )


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
def forms(small, tmp_path_factory) -> dict[str, str]:
    """Addresses: of the review page, of one that is shared by Anna and Ben, and of questions to readers."""
    folder = tmp_path_factory.mktemp("forms")
    boxes = Box(0.1, 0.5, 0.2, 0.6), Box(0.3, 0.9, 0.4, 1)
    photos = [data_uri("png", files.png(0, size)) for size in ((400, 300), (225, 400))]
    shown = {CAT: [review.Shown("0", photo, *boxes) for photo in photos]}
    captions = list(small[CAT])
    captions[6] = dataclasses.replace(captions[6], text=MALICIOUS)
    screens = review.screens(small | {CAT: tuple(captions)})
    (folder / "review.html").write_text(review.page(screens, shown), "utf-8")
    people = {"Anna": [0, 3], "Ben": [0, 1], MALICIOUS: [0]}
    (folder / "shared.html").write_text(review.page(screens, shown, people), "utf-8")
    pairs = [Pair(f"true {n}", f"false {n}", str(CAT), "on", "swap", "yes") for n in range(9)]
    readers.write(folder, readers.sample(pairs, [MALICIOUS], 4, 2, seed=0))
    return {path.stem: path.as_uri() for path in folder.glob("*.html")}


TEXTS = "[...document.querySelectorAll('.text')].map(element => element.textContent)"
PRESSED = "[...document.querySelectorAll('.buttons [aria-pressed=true]')].map(button => button.textContent)"
COUNT = "document.getElementById('count').textContent"
CORNERS = """[...document.querySelectorAll('.box')].map(box => {  // of each box, as shares of its photo
  const inner = box.getBoundingClientRect(), photo = box.parentElement.querySelector('img').getBoundingClientRect();
  const across = ["left", "right"].map(side => (inner[side] - photo.left) / photo.width);
  return [...across, ...["top", "bottom"].map(side => (inner[side] - photo.top) / photo.height)];
})"""
MESSAGE = "document.getElementById('message').textContent"


def write(page: Page, text: str) -> None:
    for letter in text:
        page.press(letter)


def fresh(page: Page, address: str, name: str, size: tuple[int, int] = DESK) -> None:
    """Opens the page as somebody in whose browser nobody has answered anything."""
    page.resize(*size)
    page.open(address)
    page.run("localStorage.clear()")
    page.open(address)
    enter(page, name)


def enter(page: Page, name: str) -> None:
    page.click("#name")
    write(page, name)
    page.press("Enter")


def test_review_page_shows_pair_photos_and_guidelines(page, small, forms):
    check(page, forms["review"], "NatuRel captions: review")
    assert page.run("document.querySelectorAll('#rules li').length") >= 4, "before a name is entered"
    for size in (PHONE, DESK):
        fresh(page, forms["review"], "Ada", size)
        assert page.violations() == [] and page.fits(), size
        corners = [[0.1, 0.5, 0.2, 0.6], [0.3, 0.9, 0.4, 1]] * 2
        np.testing.assert_allclose(page.run(CORNERS), corners, rtol=0, atol=0.01, err_msg=str(size))
    assert page.run(TEXTS) == [caption.text for caption in small[CAT][:2]]
    asks = page.run("[...document.querySelectorAll('.ask')].map(element => element.textContent.split('.')[0])")
    assert asks == ["Meant to be true", "Meant to be false"]
    assert page.run("document.getElementById('guidelines').getBoundingClientRect().bottom") < 900, "beside the captions"
    images = page.run("[...document.querySelectorAll('figure img')].map(image => [image.alt, image.naturalWidth])")
    assert images == [["Photo of Cat on Desk", 400], ["Photo of Cat on Desk", 225]]
    assert page.run("[...document.querySelectorAll('.box')].map(box => box.textContent)") == ["Cat", "Desk"] * 2
    for _ in range(3):
        page.click("#after")
    assert page.run(TEXTS)[0] == MALICIOUS and page.run("document.title") == "NatuRel captions: review"


def test_review_by_touch(page, small, forms, tmp_path):
    """Both captions are judged on a phone; the exported file is what the builder and the audit read."""
    fresh(page, forms["review"], "Ada", (390, 640))
    page.press("k")
    buttons = "document.querySelectorAll('.buttons')[1].getBoundingClientRect().bottom"
    assert page.run(f"document.querySelector('nav').getBoundingClientRect().top - {buttons}") > 0, "nothing covers them"
    right = "Math.max(...[...document.images].map(image => image.getBoundingClientRect().right))"
    assert page.run(right) <= 390, "both photos are in sight"
    page.press("u")
    page.resize(*PHONE)
    page.click(".question:nth-child(1) .accept")
    assert page.run(PRESSED) == ["Keep"]
    page.click(".question:nth-child(2) .reject")
    assert page.run(PRESSED) == ["Keep", "Reject"] and page.violations() == [] and page.fits()
    write(page, 'says "on", twice')
    page.press("Enter")
    assert page.run(TEXTS)[0] == small[CAT][2].text
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16"
    page.click(".question:nth-child(1) .unclear")
    page.click("#undo")
    assert page.run(PRESSED) == []
    page.click(".question:nth-child(1) .accept")
    page.click(".question:nth-child(1) .accept")
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16", "a second touch takes it back"
    written = page.run("csv()")
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [(row["decision"], row["reason"], row["annotator"]) for row in rows] == [
        ("accept", "", "Ada"),
        ("reject", 'says "on", twice', "Ada"),
    ]
    (tmp_path / "decisions.csv").write_text(written, encoding="utf-8")
    assert decisions.rejected([tmp_path / "decisions.csv"]) == {(CAT, small[CAT][1].text)}


def test_review_with_keys_and_again(page, small, forms):
    fresh(page, forms["review"], "Ada")
    for key in ("k", "k", "r"):
        page.press(key)
    assert page.run("document.activeElement.className") == "reason"
    page.press("Enter")
    page.press("k")
    assert page.run(COUNT) == "4 of 32 answered; screen 3 of 16"
    page.press("u")
    page.press("u")
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16" and page.run(PRESSED) == []
    for key in ("n", "Escape", "ArrowDown", "k", "ArrowRight", "k"):
        page.press(key)
    page.open(forms["review"])
    assert page.run("document.querySelector('#people').innerText") == "Ada: 5 answered"
    page.click("#people button")
    assert page.run(COUNT) == "5 of 32 answered; screen 3 of 16", "where Ada left off"
    page.press("k")
    page.open(forms["review"])
    page.click("#people button")
    marked = "[...document.querySelectorAll('.question')].map(question => question.getAttribute('aria-current'))"
    assert page.run(marked) == ["false", "true"], "keys are for the caption that is left"
    written = page.run("csv()")
    page.run("localStorage.clear()")
    page.open(forms["review"])
    enter(page, "Ada")
    page.run(f"restore({json.dumps(written)})")
    assert page.run("csv()") == written
    page.press("u")
    assert page.run(COUNT).startswith("0 of 32"), "a file is one step"
    page.run(f"restore({json.dumps(written)})")
    for field, value, screens in (("", "unclear", 1), ("", "none", 14), ("relation", "is", 4)):
        select = f"document.querySelector('[data-field=\"{field}\"]')"
        page.run(f"(s => {{ s.value = '{value}'; filter(); s.value = '' }})({select})")
        assert page.run("screens.length") == screens, value


def test_two_people_at_one_browser_do_not_share_decisions(page, forms):
    fresh(page, forms["review"], "Ada")
    page.press("k")
    page.click("#change")
    enter(page, "  Bea ")
    assert page.run(COUNT) == "0 of 32 answered; screen 1 of 16" and page.run(PRESSED) == []
    page.press("u")
    page.press("ArrowDown")
    page.press("k")
    page.click("#change")
    assert page.run("document.querySelector('#people').innerText.split(/\\s*\\n\\s*/)") == [
        "Ada: 1 answered",
        "Bea: 1 answered",
    ]
    page.click("#people button")
    assert page.run("csv().split('\\r\\n').length") == 3 and '"Ada"' in page.run("csv()")


def test_files_of_others_are_refused_by_row(page, small, forms):
    fresh(page, forms["review"], "Ada")
    row = f"{CAT},{small[CAT][0].text}"
    for text, message in {
        f"triplet;text;decision\n{row.replace(',', ';')};accept\n": "decision, each once, with commas between them",
        f"triplet,text,decision\n{row},accept,reject\n": "Row 2 has 4 cells; the first has 3",
        f"triplet,text,decision\r{row},\r": "Nothing was loaded. The file has no answer.",
        f"triplet,text,decision,decision\n{row},accept,reject\n": "triplet, text, decision, each once",
        f"triplet,text,decision\n{row},accept\n{row},maybe\n": 'Nothing was loaded. Row 3: decision "maybe"; exp',
        f"triplet,text,decision,annotator\n{row},accept,Bea\n": "Row 2: it is by Bea, and you are Ada",
        f"triplet,text,decision,reason\n{row},reject,{'x' * 1001}\n": "Row 2: its reason has more than 1000 characters",
    }.items():
        page.run(f"restore({json.dumps(text)})")
        assert message in page.run(MESSAGE) and page.run("given.size") == 0
    page.run(
        f"restore({json.dumps(f'triplet,text,decision{chr(10)}{row},accept{chr(10)}A|on|B,{MALICIOUS[:20]},accept')})"
    )
    assert "1 rows are not about this page" in page.run(MESSAGE) and page.run("given.size") == 1
    page.run("load({ target: { files: [{ name: 'big.csv', size: 2e7 }] } })")
    assert page.run(MESSAGE) == "big.csv has 20000000 bytes; expected at most 16000000"


def test_shared_page_gives_each_person_their_screens(page, forms):
    page.resize(*PHONE)
    page.open(forms["shared"])
    page.run("localStorage.clear()")
    check(page, forms["shared"], "NatuRel captions: review")
    assert page.run("[...document.querySelectorAll('#people button')].map(button => button.textContent)") == [
        "Anna: none answered",
        "Ben: none answered",
        f"{MALICIOUS}: none answered",
    ]
    assert page.run("getComputedStyle(document.getElementById('start')).display") == "none"
    page.click("#people button:nth-child(2)")
    assert page.run(COUNT) == "0 of 4 answered; screen 1 of 2"
    for key in "kkkk":
        page.press(key)
    assert page.run(COUNT) == "4 of 4 answered; screen 2 of 2. All done: export, and send the file."


def test_questions_to_readers(page, forms, tmp_path):
    check(page, forms["questions"], "NatuRel captions: questions to readers")
    fresh(page, forms["questions"], "Ada", PHONE)
    assert page.fits() and page.violations() == []
    for key in ("3", "5", "5", "5", "5", "t", "f", "o", "t", "2"):
        page.press(key)
    assert page.run(COUNT) == "10 of 11 answered; screen 11 of 11"
    (tmp_path / "answers.csv").write_text(page.run("csv()"))
    key = Path(forms["questions"].removeprefix("file://")).with_name("key.tsv")
    answers = readers.read_answers(tmp_path / "answers.csv", readers.read_key(key))
    assert answers == {f"natural-{n}": "53"[n == 1] for n in range(1, 6)} | {"truth-1": "true", "truth-2": "false"} | {
        "truth-3": "open",
        "truth-4": "true",
        "choice-1": "2",
    }


def test_bindings_and_positions_are_compared_with_their_photos(page, tmp_path):
    """From annotations in the official form to the count of what is wrong: of each photo, Ada says that the caption
    above is true, and is not sure of the one below."""
    sides, materials, rows = [(0.05, 0.3, 0.3, 0.7), (0.65, 0.95, 0.3, 0.7)], ["Plastic", "Wooden"], []
    (tmp_path / "images" / "train").mkdir(parents=True)
    for n in range(60):
        (x, y), (of_x, of_y) = sides[:: (1, -1)[n % 2]], materials[:: (1, -1)[n % 2]]
        rows += [row(n, "Chair", "is", of_x, x), row(n, "Table", "is", of_y, y), row(n, "Chair", "at", "Table", x, y)]
        (tmp_path / "images" / "train" / f"{image_id(n)}.jpg").write_bytes(photo(n, 120, 90))
    write_release(tmp_path / "annotations", rows, range(60))
    flags = ("--manual_dir", tmp_path, "--data_dir", tmp_path / "data", "--unofficial", "--name", "photos")
    build.main(["full", *map(str, flags)])
    dataset, asked = tmp_path / "data" / "naturel" / "photos" / "4.0.0", tmp_path / "asked"
    audit.main(["--review", str(asked), "--dataset", str(dataset), "--sample", "12", "--assign", "Ada"])

    check(page, (asked / "review.html").as_uri(), "NatuRel captions: bindings and positions")
    page.click("#people button")
    images = page.run("[...document.querySelectorAll('figure img')].map(image => image.naturalWidth)")
    boxes = page.run("[...document.querySelectorAll('.box')].map(box => box.textContent)")
    assert images == [120] and sorted(boxes) == ["Chair", "Table"]
    for _ in range(12):
        page.press("y")
        page.press("m")
    assert "24 of 24 answered" in page.run(COUNT)
    (tmp_path / "answers-Ada.csv").write_text(page.run("csv()"))
    audit.main(["--readers", str(asked), "--score", str(tmp_path / "answers-Ada.csv")])
    _, wrong, unsure = (asked / "answers.md").read_text().split("\n## ")
    for kind in ("binding", "position"):
        key = [item for item in readers.read_key(asked / "key.tsv").values() if item.source == kind]
        below = {label: [not int(i.item[6:]) % 2 for i in key if i.label == label] for label in ("true", "false")}
        number, true_below = len(below["true"]), sum(below["true"])
        assert number > 3 and f"| {kind}, true | {number} | 0.000 (0.000-" in wrong
        assert f"| {kind}, false | {number} | {true_below / number:.3f} (" in wrong  # these are above
        assert f"| {kind}, true | {number} | {true_below / number:.3f} (" in unsure
